package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Lock is a lock file that this process holds. The kernel releases it when the process ends, however it does.
type Lock struct{ file *os.File }

// Acquire takes the lock file at path, made when missing, and writes the caller's identity into it. It fails
// with ErrLocked, and says which process that is, when a living process holds it.
func Acquire(path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := tryLock(file); err != nil {
		_ = file.Close()
		if holder, holderErr := Holder(path); errors.Is(err, ErrLocked) && holderErr == nil {
			return nil, fmt.Errorf("%s: %w (process %d)", path, err, holder.PID)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	lock := &Lock{file: file}
	if err := lock.sign(); err != nil {
		lock.Release()
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return lock, nil
}

func (l *Lock) sign() error {
	self, err := Self()
	if err != nil {
		return err
	}
	text, err := json.Marshal(self)
	if err != nil {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err = l.file.WriteAt(text, 0)
	return err
}

// Release gives the lock up. The file stays: removing it would let two processes hold two files of one name.
func (l *Lock) Release() { _ = l.file.Close() }

// Holder returns who holds or last held the lock file at path.
func Holder(path string) (Process, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Process{}, err
	}
	var p Process
	if err := json.Unmarshal(text, &p); err != nil {
		return Process{}, fmt.Errorf("%s names no process: %w", path, err)
	}
	return p, nil
}
