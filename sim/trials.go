package sim

import (
	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// Trials is the table of planted bugs: what must catch each, where, and within how
// many seeds.
func Trials() []Trial {
	return []Trial{
		{plant.AckBeforeQuorum, of(check.ExclusiveLeaseProperty), LogRaft, "deposed-registrar", 20},
		{plant.ExpireWithoutWait, of(check.ExclusiveLeaseProperty), LogRaft, "registrar-churn", 10},
		{plant.DeposedExpiryCounts, of(check.NoResurrectionProperty), LogRaft, "deposed-registrar", 10},
		{plant.KeepalivesBeforeFirstEntry, of(check.NoResurrectionProperty), LogRaft, "late-decisions", 40},
		{plant.RenewExpired, of(check.NoResurrectionProperty), LogRaft, "retire-redeclare", 10},
		{plant.LeaseFromAck, of(check.ExclusiveLeaseProperty), LogRaft, "slow-disk", 40},
		{plant.IgnoreDrift, of(check.ExclusiveLeaseProperty), LogRaft, "clock-edge", 10},
		{plant.FenceNotRaised, of(check.FenceMonotonicProperty), LogRaft, "hand-over", 10},
		{plant.FenceMissingFromSnapshot, of(check.FenceMonotonicProperty), LogRaft, "snapshots", 10},
		{plant.GuardRecordsRefused, of(check.NoStaleEffectProperty), LogRaft, "lagging-replica", 10},
		{plant.GuardForgetsOnRestart, of(check.NoStaleEffectProperty), LogRaft, "crashes", 20},
		{plant.ApplyTwiceAfterRestart, of(check.AgreementProperty, check.DurableProperty), LogRaft, "crashes", 10},
		{plant.SnapshotDropsSessions, of(check.ExactlyOnceProperty, check.LiveSessionOnlyProperty), LogRaft, "snapshots", 10},
		{plant.ReplyCacheLost, of(check.ExactlyOnceProperty), LogRaft, "hand-over", 10},
		{plant.VoteBeforeDurable, of(check.AgreementProperty), LogRaft, "contested-elections", 60},
		{plant.AppendBeforeDurable, of(check.DurableProperty), LogRaft, "crashes", 40},
		{plant.TornTailAccepted, of(check.AgreementProperty, check.DurableProperty), LogRaft, "crashes", 40},
		{plant.ApplyRangesOverMap, of(check.AgreementProperty), LogRaft, "hand-over", 10},
		{plant.ApplyReadsClock, of(check.AgreementProperty), LogRaft, "hand-over", 10},
		{plant.AuditOutsideTransaction, of(check.DurableProperty), LogRaft, "snapshots", 10},
		{plant.NoPreVoteCheckQuorum, of(check.ElectionSLAProperty), LogRaft, "one-way-cut", 10},
		{plant.SuccessorBeforeAck, of(check.ExclusiveLeaseProperty), LogRaft, "hand-over", 10},
		{plant.StreamResumesLate, of(check.FaithfulStreamProperty), LogRaft, "partitions", 10},
		{plant.RetiredScopeElected, of(check.HolderIsLeaderProperty), LogRaft, "retire-redeclare", 10},
		{plant.BelieveGivenUp, of(check.ExclusiveLeaseProperty), LogRaft, "lagging-replica", 10},
		{plant.AckAfterNote, of(check.NoResurrectionProperty), LogRaft, "late-decisions", 10},
		{plant.NoNotes, of(check.BoundedExpiryProperty), LogRaft, "silent-members", 40},
		{plant.StampBeforeDrain, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "stalled-receipts", 10},
		{plant.OldCheckConfirms, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "deposed-registrar", 20},
		{plant.AckWhileExpiring, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "late-expiries", 20},
		{plant.ForeignCancelCounts, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "lost-cancels", 60},
		{plant.OfficeOutlived, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "registrar-churn", 10},
		{plant.NoteCountsWhenApplied, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "late-decisions", 20},
		{plant.TermOfCommitter, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), LogRaft, "late-decisions", 20},
		{plant.ForgetUnseenResign, of(check.HolderIsLeaderProperty), LogRaft, "lagging-replica", 10},
		{plant.NoteAfterCancel, of(check.NoResurrectionProperty), LogRaft, "late-decisions", 10},
		{plant.DivergentElection, of(check.AgreementProperty), LogRaft, "hand-over", 10},
		{plant.LocalRead, of(check.LinearizableProperty), LogRaft, "partitions", 10},

		{plant.GossipRevokesLease, of(check.HolderIsLeaderProperty, check.ExclusiveLeaseProperty), LogRaft, "gossip-lies", 10},
		{plant.SuspicionNotCancelled, of(check.KeptSessionProperty), LogRaft, "gossip-lies", 20},
		{plant.ObservedNeverCleared, of(check.ElectionSLAProperty), LogRaft, "gossip-lies", 20},
		{plant.IneligibleElected, of(check.EligibleOnlyProperty), LogRaft, "gossip-lies", 10},
		{plant.DetectorSilent, of(check.SplitBrainReportedProperty), LogRaft, "gossip-lies", 40},

		{plant.PromoteUncaught, of(check.OrderlyNodesProperty), LogRaft, "node-churn", 10},
		{plant.RemovedNameReused, of(check.OrderlyNodesProperty), LogRaft, "node-churn", 20},
		{plant.ReplaceAtOnce, of(check.AgreementProperty), LogRaft, "node-churn", 60},
		{plant.StaleMembers, of(check.OrderlyNodesProperty, check.AgreementProperty), LogRaft, "node-churn", 20},
		{plant.MembersForgotten, of(check.OrderlyNodesProperty, check.AgreementProperty), LogRaft, "node-churn", 150},

		{plant.AppendUnguarded, of(check.AgreementProperty, check.NoResurrectionProperty), LogCAS, "store-faults", 20},
		{plant.AppendChanged, of(check.AgreementProperty, check.NoPanicProperty), LogCAS, "store-faults", 60},
		{plant.OldConfirmCounts, of(check.LinearizableProperty), LogCAS, "store-faults", 20},
		{plant.SupersededBelieved, of(check.DurableProperty, check.AgreementProperty), LogCAS, "store-fail-overs", 10},
		{plant.MarkBeforeDurable, of(check.FenceMonotonicProperty), LogCAS, "store-lost-writes", 20},
		{plant.MarkForgotten, of(check.FenceMonotonicProperty), LogCAS, "store-lost-writes", 20},
		{plant.AttestUnseen, of(check.FenceMonotonicProperty, check.AgreementProperty), LogCAS, "store-lost-writes", 20},
		{plant.AdoptedBySome, of(check.FenceMonotonicProperty, check.AgreementProperty), LogCAS, "store-lost-writes", 40},
		{plant.OneRound, of(check.AgreementProperty, check.DurableProperty, check.LinearizableProperty), LogCAS, "store-quick-fail-overs", 60},
		{plant.GapAccepted, of(check.AgreementProperty), LogCAS, "store-lost-writes", 20},
		{plant.PublishedTwice, of(check.DurableProperty), LogCAS, "store-faults", 20},
		{plant.JumpKeepsFence, of(check.FenceMonotonicProperty, check.NoPanicProperty), LogCAS, "store-lost-writes", 20},
		{plant.JumpWithoutWait, of(check.ExclusiveLeaseProperty), LogCAS, "store-lost-writes", 20},
	}
}

// Masked are the plants for which there is no trial, each with the reason. They
// are listed so that nobody takes their absence for success.
func Masked() map[plant.Plant]string {
	return map[plant.Plant]string{
		plant.AgeFromAck:          "an age counted from the latest acknowledged receipt reaches no further than what members were promised",
		plant.CheckOfFormerOffice: "it needs an office that never commits, and late answers within an election timeout of the next: core's TestACheckOfAFormerOfficeConfirmsNothing plays that schedule, with and without the plant",
	}
}

// of lists the properties, any of which must fire.
func of(properties ...check.Property) []check.Property { return properties }

// TrialOf finds the trial of a plant.
func TrialOf(p plant.Plant) (Trial, bool) {
	for _, t := range Trials() {
		if t.Plant == p {
			return t, true
		}
	}
	return Trial{}, false
}
