package network

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words that the rules are written in. Each is what `nft` makes of the statement in its comment.

// Registers: a rule's matches use the first 16-byte one; the key of a source, 16 + 8 + 4 bytes, is put
// together in the 4-byte ones, where NFT_REG32_00 is the first.
const (
	matchRegister  = unix.NFT_REG_1
	sourceRegister = unix.NFT_REG32_00
	macRegister    = unix.NFT_REG32_00 + ifnameSize/4
	ipRegister     = macRegister + 2

	ifnameSize    = unix.IFNAMSIZ
	sourceKeySize = ifnameSize + 8 + 4 // a MAC address is padded to 8 bytes
)

// chain adds rules to one chain.
type chain struct {
	tx *nftables.Conn
	*nftables.Chain
}

func (c chain) rule(parts ...[]expr.Any) {
	c.tx.AddRule(&nftables.Rule{Table: c.Table, Chain: c.Chain, Exprs: slices.Concat(parts...)})
}

// preamble is what packets to the host and beyond it have in common: IPv4 only, known connections go on, name
// servers may be asked.
func (c chain) preamble(servers *nftables.Set) {
	c.rule(notIPv4(), verdict(expr.VerdictDrop))
	c.rule(connection(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	c.rule(connection(expr.CtStateBitINVALID), verdict(expr.VerdictDrop))
	for _, transport := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		c.rule(toServers(servers), protocol(transport), dport(53), jump(openChain))
	}
}

// except lets exceptions through.
func (c chain) except(exceptions []Exception) {
	for _, e := range exceptions {
		if e.Port == 0 {
			c.rule(destination(e.Prefix), jump(openChain))
			continue
		}
		for _, transport := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.rule(destination(e.Prefix), protocol(transport), dport(e.Port), jump(openChain))
		}
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// jump NAME
func jump(name string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}
}

// load puts size bytes of the packet at offset into a register.
func load(base expr.PayloadBase, offset, size, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: register, Base: base, Offset: offset, Len: size}}
}

func loadMeta(key expr.MetaKey, register uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register}}
}

func compare(op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: op, Register: matchRegister, Data: data}}
}

// Where Ethernet, ARP (RFC 826, for Ethernet and IPv4) and IPv4 (RFC 791) keep what the rules look at.
func loadEtherSource(register uint32) []expr.Any {
	return load(expr.PayloadBaseLLHeader, 6, 6, register)
}

func loadARPSenderMAC(register uint32) []expr.Any {
	return load(expr.PayloadBaseNetworkHeader, 8, 6, register)
}

func loadARPSenderIP(register uint32) []expr.Any {
	return load(expr.PayloadBaseNetworkHeader, 14, 4, register)
}

func loadIPSource(register uint32) []expr.Any {
	return load(expr.PayloadBaseNetworkHeader, 12, 4, register)
}

func loadIfname(register uint32) []expr.Any { return loadMeta(expr.MetaKeyIIFNAME, register) }

// ether type N
func etherType(kind uint16) []expr.Any {
	return slices.Concat(load(expr.PayloadBaseLLHeader, 12, 2, matchRegister),
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, kind)))
}

// arp htype ether arp ptype ip arp hlen 6 arp plen 4
func arpForIPv4() []expr.Any {
	return slices.Concat(load(expr.PayloadBaseNetworkHeader, 0, 6, matchRegister),
		compare(expr.CmpOpEq, []byte{0, 1, 8, 0, 6, 4}))
}

// iifname "PREFIX*"
func ifnamePrefix(prefix string) []expr.Any {
	return slices.Concat(loadIfname(matchRegister), compare(expr.CmpOpEq, []byte(prefix)))
}

func ifname(name string) []byte {
	data := make([]byte, ifnameSize)
	copy(data, name)
	return data
}

// iifname NAME
func fromLink(name string) []expr.Any {
	return slices.Concat(loadIfname(matchRegister), compare(expr.CmpOpEq, ifname(name)))
}

// oifname NAME
func toLink(name string) []expr.Any {
	return slices.Concat(loadMeta(expr.MetaKeyOIFNAME, matchRegister), compare(expr.CmpOpEq, ifname(name)))
}

// oifname != NAME
func notToLink(name string) []expr.Any {
	return slices.Concat(loadMeta(expr.MetaKeyOIFNAME, matchRegister), compare(expr.CmpOpNeq, ifname(name)))
}

// meta nfproto ipv4
func onlyIPv4() []expr.Any {
	return slices.Concat(loadMeta(expr.MetaKeyNFPROTO, matchRegister), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}))
}

// meta nfproto != ipv4
func notIPv4() []expr.Any {
	return slices.Concat(loadMeta(expr.MetaKeyNFPROTO, matchRegister), compare(expr.CmpOpNeq, []byte{unix.NFPROTO_IPV4}))
}

// meta l4proto N
func protocol(transport byte) []expr.Any {
	return slices.Concat(loadMeta(expr.MetaKeyL4PROTO, matchRegister), compare(expr.CmpOpEq, []byte{transport}))
}

// th dport N
func dport(port uint16) []expr.Any {
	return slices.Concat(load(expr.PayloadBaseTransportHeader, 2, 2, matchRegister),
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, port)))
}

// ip daddr PREFIX
func destination(prefix netip.Prefix) []expr.Any { return within(16, prefix) }

// ip saddr PREFIX
func origin(prefix netip.Prefix) []expr.Any { return within(12, prefix) }

func within(offset uint32, prefix netip.Prefix) []expr.Any {
	mask := ^uint32(0) << (32 - prefix.Bits())
	return slices.Concat(onlyIPv4(), load(expr.PayloadBaseNetworkHeader, offset, 4, matchRegister),
		[]expr.Any{&expr.Bitwise{
			SourceRegister: matchRegister, DestRegister: matchRegister, Len: 4,
			Mask: binary.BigEndian.AppendUint32(nil, mask), Xor: make([]byte, 4),
		}},
		compare(expr.CmpOpEq, prefix.Masked().Addr().AsSlice()))
}

// ip daddr @SET
func toServers(set *nftables.Set) []expr.Any {
	return slices.Concat(onlyIPv4(), load(expr.PayloadBaseNetworkHeader, 16, 4, matchRegister),
		[]expr.Any{&expr.Lookup{SourceRegister: matchRegister, SetName: set.Name, SetID: set.ID}})
}

// update @SET { ip saddr timeout TIMEOUT limit rate over RATE/minute burst BURST packets }
func senderExceedsRate(set *nftables.Set, perMinute uint64, burst uint32) []expr.Any {
	return slices.Concat(loadIPSource(matchRegister), []expr.Any{&expr.Dynset{
		SrcRegKey: matchRegister, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: set.Timeout,
		Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: perMinute, Unit: expr.LimitTimeMinute, Burst: burst, Over: true}},
	}})
}

// add @SET { ip saddr ct count over COUNT }
func senderExceedsCount(set *nftables.Set, count uint32) []expr.Any {
	return slices.Concat(loadIPSource(matchRegister), []expr.Any{&expr.Dynset{
		SrcRegKey: matchRegister, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_ADD,
		Exprs: []expr.Any{&expr.Connlimit{Count: count, Flags: expr.NFT_CONNLIMIT_F_INV}},
	}})
}

// counter
func count() []expr.Any { return []expr.Any{&expr.Counter{}} }

// ct state A,B
func connection(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: matchRegister},
		&expr.Bitwise{
			SourceRegister: matchRegister, DestRegister: matchRegister, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: matchRegister, Data: make([]byte, 4)},
	}
}

// reject with tcp reset
func rejectTCP() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

// reject with icmpx admin-prohibited
func rejectProhibited() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}
