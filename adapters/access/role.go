package access

import "fmt"

// Role says what a caller may do.
type Role string

// Read, operate and admin each include the ones before them. Member is apart: it
// includes read, and acts as one member.
const (
	RoleRead    Role = "mesh.read"    // reads, subscribes, reads the audit
	RoleOperate Role = "mesh.operate" // moves leadership: transfer, rebalance, drain, cordon; moves the registrar
	RoleAdmin   Role = "mesh.admin"   // declares and retires scopes; adds, replaces and removes nodes
	RoleMember  Role = "mesh.member"  // attaches, stands, resigns, as one member
)

var roleRank = map[Role]int{RoleRead: 1, RoleOperate: 2, RoleAdmin: 3}

// Includes reports whether whoever has r may do what want allows.
func (r Role) Includes(want Role) bool {
	return roleRank[want] > 0 && roleRank[r] >= roleRank[want]
}

// higher returns the one of two roles that includes the other. A role that is none,
// RoleMember among them, counts for nothing.
func higher(a, b Role) Role {
	if roleRank[a] == 0 && roleRank[b] == 0 {
		return ""
	}
	if roleRank[b] > roleRank[a] {
		return b
	}
	return a
}

func checkRole(r Role) error {
	if roleRank[r] == 0 && r != RoleMember {
		return fmt.Errorf("role: %q, want mesh.read, mesh.operate, mesh.admin or mesh.member", string(r))
	}
	return nil
}
