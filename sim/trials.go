package sim

import (
	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// Trials is the table of planted bugs: what must catch each, where, and within how
// many seeds.
func Trials() []Trial {
	return []Trial{
		{plant.AckBeforeQuorum, of(check.ExclusiveLeaseProperty), "deposed-registrar", 20},
		{plant.ExpireWithoutWait, of(check.ExclusiveLeaseProperty), "registrar-churn", 10},
		{plant.DeposedExpiryCounts, of(check.NoResurrectionProperty), "deposed-registrar", 10},
		{plant.KeepalivesBeforeFirstEntry, of(check.NoResurrectionProperty), "late-decisions", 40},
		{plant.RenewExpired, of(check.NoResurrectionProperty), "retire-redeclare", 10},
		{plant.LeaseFromAck, of(check.ExclusiveLeaseProperty), "slow-disk", 40},
		{plant.IgnoreDrift, of(check.ExclusiveLeaseProperty), "clock-edge", 10},
		{plant.FenceNotRaised, of(check.FenceMonotonicProperty), "hand-over", 10},
		{plant.FenceMissingFromSnapshot, of(check.FenceMonotonicProperty), "snapshots", 10},
		{plant.GuardRecordsRefused, of(check.NoStaleEffectProperty), "lagging-replica", 10},
		{plant.GuardForgetsOnRestart, of(check.NoStaleEffectProperty), "crashes", 20},
		{plant.ApplyTwiceAfterRestart, of(check.AgreementProperty, check.DurableProperty), "crashes", 10},
		{plant.SnapshotDropsSessions, of(check.ExactlyOnceProperty, check.LiveSessionOnlyProperty), "snapshots", 10},
		{plant.ReplyCacheLost, of(check.ExactlyOnceProperty), "hand-over", 10},
		{plant.VoteBeforeDurable, of(check.AgreementProperty), "contested-elections", 60},
		{plant.AppendBeforeDurable, of(check.DurableProperty), "crashes", 40},
		{plant.TornTailAccepted, of(check.AgreementProperty, check.DurableProperty), "crashes", 40},
		{plant.ApplyRangesOverMap, of(check.AgreementProperty), "hand-over", 10},
		{plant.ApplyReadsClock, of(check.AgreementProperty), "hand-over", 10},
		{plant.AuditOutsideTransaction, of(check.DurableProperty), "snapshots", 10},
		{plant.NoPreVoteCheckQuorum, of(check.ElectionSLAProperty), "one-way-cut", 10},
		{plant.SuccessorBeforeAck, of(check.ExclusiveLeaseProperty), "hand-over", 10},
		{plant.StreamResumesLate, of(check.FaithfulStreamProperty), "partitions", 10},
		{plant.RetiredScopeElected, of(check.HolderIsLeaderProperty), "retire-redeclare", 10},
		{plant.BelieveGivenUp, of(check.ExclusiveLeaseProperty), "lagging-replica", 10},
		{plant.AckAfterNote, of(check.NoResurrectionProperty), "late-decisions", 10},
		{plant.NoNotes, of(check.BoundedExpiryProperty), "silent-members", 40},
		{plant.StampBeforeDrain, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "stalled-receipts", 10},
		{plant.OldCheckConfirms, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "deposed-registrar", 20},
		{plant.AckWhileExpiring, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "late-expiries", 20},
		{plant.ForeignCancelCounts, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "lost-cancels", 60},
		{plant.OfficeOutlived, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "registrar-churn", 10},
		{plant.NoteCountsWhenApplied, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "late-decisions", 20},
		{plant.TermOfCommitter, of(check.NoResurrectionProperty, check.HolderIsLeaderProperty), "late-decisions", 20},
		{plant.ForgetUnseenResign, of(check.HolderIsLeaderProperty), "lagging-replica", 10},
		{plant.NoteAfterCancel, of(check.NoResurrectionProperty), "late-decisions", 10},
		{plant.DivergentElection, of(check.AgreementProperty), "hand-over", 10},
		{plant.LocalRead, of(check.LinearizableProperty), "partitions", 10},
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
