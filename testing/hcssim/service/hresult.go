package service

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
)

// HRESULT is what a call returns. hcsshim shows one of facility Win32 (0x8007xxxx) as the plain error xxxx.
type HRESULT uint32

// The results that the simulated service gives. Names and values are those of hcsshim (internal/hcs/errors.go), of
// winerror.h, and of Microsoft's HCS and HCN references.
const (
	OK             HRESULT = 0
	Pending        HRESULT = 0xC0370103 // ErrVmcomputeOperationPending
	NotImplemented HRESULT = 0x80004001 // E_NOTIMPL
	InvalidArg     HRESULT = 0x80070057
	FileNotFound   HRESULT = 0x80070002
	PathNotFound   HRESULT = 0x80070003
	AccessDenied   HRESULT = 0x80070005
	InvalidHandle  HRESULT = 0x80070006 // ErrInvalidHandle
	NotReady       HRESULT = 0x80070015 // ERROR_NOT_READY, as issues show for a volume that is not there yet
	Sharing        HRESULT = 0x80070020 // ERROR_SHARING_VIOLATION
	NotSupported   HRESULT = 0x80070032
	AlreadyExists  HRESULT = 0x800700B7
	PrivilegeHeld  HRESULT = 0x80070522 // ERROR_PRIVILEGE_NOT_HELD
	NoneMapped     HRESULT = 0x80070534 // ERROR_NONE_MAPPED: no such account
	NotFound       HRESULT = 0x80070490 // ErrElementNotFound
	ServiceGone    HRESULT = 0x800706BA // RPC_S_SERVER_UNAVAILABLE

	ImageMismatch   HRESULT = 0xC0370101 // HCS_E_IMAGE_MISMATCH: the image's system does not fit the host's
	InvalidState    HRESULT = 0xC0370105 // ErrVmcomputeOperationInvalidState
	UnexpectedExit  HRESULT = 0xC0370106 // ErrVmcomputeUnexpectedExit
	InvalidJSON     HRESULT = 0xC037010D // ErrVmcomputeInvalidJSON
	NoSystem        HRESULT = 0xC037010E // ErrComputeSystemDoesNotExist
	SystemExists    HRESULT = 0xC037010F
	AlreadyStopped  HRESULT = 0xC0370110 // ErrVmcomputeAlreadyStopped
	ProcessStopped  HRESULT = 0x8037011F // ErrProcessAlreadyStopped
	NetworkMissing  HRESULT = 0x803B0001 // HCN_E_NETWORK_NOT_FOUND
	EndpointMissing HRESULT = 0x803B0002 // HCN_E_ENDPOINT_NOT_FOUND
	NetworkExists   HRESULT = 0x803B0010 // HCN_E_NETWORK_ALREADY_EXISTS
)

// Refusal is a call that the service did not do.
type Refusal struct {
	HRESULT HRESULT
	// Rule is the rule that the call breaks; empty where a correct client may meet the refusal too, as with a system
	// that has ended meanwhile.
	Rule    Rule
	Message string
	at      string // where in the source a rule was found broken
}

func (r *Refusal) Error() string {
	if r.Rule == "" {
		return fmt.Sprintf("%s (0x%08X)", r.Message, uint32(r.HRESULT))
	}
	return fmt.Sprintf("%s: %s (0x%08X)", r.Rule, r.Message, uint32(r.HRESULT))
}

// refuse is what a correct client may meet.
func refuse(result HRESULT, format string, args ...any) error {
	return &Refusal{HRESULT: result, Message: fmt.Sprintf(format, args...)}
}

// broken is a breach of a rule.
func broken(rule Rule, result HRESULT, format string, args ...any) error {
	_, file, line, _ := runtime.Caller(1)
	return &Refusal{
		HRESULT: result, Rule: rule, Message: fmt.Sprintf(format, args...), at: fmt.Sprintf("%s:%d", filepath.Base(file), line),
	}
}

// resultOf returns the HRESULT of an error.
func resultOf(err error) HRESULT {
	if err == nil {
		return OK
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return refusal.HRESULT
	}
	return 0x80004005 // E_FAIL
}
