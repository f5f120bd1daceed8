package core

import (
	"strings"

	"github.com/omnirelay/leadership/core/logpb"
)

// The checks of commands about nodes that do not depend on the registry.

// completeNode gives a new node the id that its name implies.
func completeNode(n *logpb.Node) {
	if n != nil && n.Id == 0 {
		n.Id = uint64(NodeIDOf(n.Name))
	}
}

func validateNode(field string, n *logpb.Node) *Error {
	if n == nil {
		return invalid(field, "missing; name the node and where it listens")
	}
	if err := checkNodeName(field+".name", n.Name); err != nil {
		return err
	}
	if n.Id == 0 {
		return invalid(field+".id", "0 is nobody")
	}
	if n.PeerAddress == "" {
		return invalid(field+".peerAddress", "empty; write host:port of its peer listener")
	}
	return checkNodeAddresses(field, n)
}

// checkNodeAddresses passes addresses that are not known.
func checkNodeAddresses(field string, n *logpb.Node) *Error {
	for _, a := range []struct{ name, address string }{
		{"peerAddress", n.PeerAddress}, {"httpAddress", n.HttpAddress}, {"grpcAddress", n.GrpcAddress},
	} {
		if err := checkNodeAddress(field+"."+a.name, a.address); err != nil {
			return err
		}
	}
	return nil
}

// checkNodeName asks for what a certificate can name.
func checkNodeName(field, name string) *Error {
	edge := func(b byte) bool {
		return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
	}
	good := name != "" && len(name) <= MaxNodeName && edge(name[0]) && edge(name[len(name)-1])
	for i := 0; good && i < len(name); i++ {
		good = edge(name[i]) || name[i] == '.' || name[i] == '-'
	}
	if !good {
		return invalid(field, "%.80q is no name of a node; 1 to %d letters, digits, dots and dashes, as in a host name, are right", name, MaxNodeName)
	}
	return nil
}

// checkNodeAddress asks for host:port; an empty one is not known.
func checkNodeAddress(field, address string) *Error {
	if address == "" {
		return nil
	}
	colon := strings.LastIndexByte(address, ':')
	good := colon > 0 && len(address) <= MaxNodeAddress && !strings.ContainsAny(address, " /\t\r\n")
	if good {
		port, err := parseDecimal(address[colon+1:], 16)
		good = err == nil && port > 0
	}
	if !good {
		return invalid(field, "%.80q is no address; write host:port that other nodes can connect to", address)
	}
	return nil
}

func validateReplace(c *logpb.ReplaceNode) *Error {
	if err := checkNodeName("name", c.Name); err != nil {
		return err
	}
	if err := validateNode("by", c.By); err != nil {
		return err
	}
	if c.By.Name == c.Name {
		return invalid("by.name", "%q cannot take its own place: its disk may have forgotten its votes; choose another name", c.Name)
	}
	return nil
}

// orNil keeps a nil *Error from being an error.
func orNil(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}
