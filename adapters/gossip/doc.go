// Package gossip tells which members are there, how they fare and what they claim to
// lead, by hashicorp/memberlist. All of it is advice: it may be wrong, late, and
// different on every node, and nothing here decides anything.
//
// memberlist knows who joined and who is gone. What it does not tell is added here:
// whether one who is gone said farewell, who does not answer at this moment (a prober
// with a stated period), and what members claim to lead (words, which travel along with
// its packets). Whoever holds a key of the keyring is trusted to be a member; what he
// sends is bounded and validated all the same, so that a wrong or newer peer neither
// stops a node nor fills its memory.
package gossip
