package server

import (
	"slices"
	"time"

	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
)

// Who may call what. What a call then shows or does is narrowed once more by whose data it is about: see access.go.
var (
	people   = roles(operators.RoleSteward, operators.RoleAnalyst, operators.RoleOfficial, operators.RoleAuditor)
	anybody  = append(roles(operators.RoleCustodian, operators.RoleNode, operators.RoleLab), people...)
	steward  = roles(operators.RoleSteward)
	analyst  = roles(operators.RoleAnalyst)
	official = roles(operators.RoleOfficial)
	enders   = roles(operators.RoleSteward, operators.RoleOfficial)
	signers  = roles(operators.RoleSteward, operators.RoleAnalyst, operators.RoleOfficial)
	auditors = roles(operators.RoleAuditor, operators.RoleOfficial, operators.RoleSteward, operators.RoleCustodian)
)

const (
	short  = 10 * time.Second
	normal = time.Minute
	long   = 5 * time.Minute
	upload = 2 * time.Hour // of one blob

	counting = time.Hour // of a batch of reports, at most some million

	statementMax = 1 << 20  // bytes of one signed statement
	artefactMax  = 32 << 20 // of a manifest, keyset or roster
	chunkMax     = 4 << 20  // of one message of an upload
)

// Methods is the one table of the control plane's own services.
func Methods() rpc.Table {
	return rpc.Table{
		labv1.LabService_GetLab_FullMethodName:    {Roles: anybody, Deadline: short},
		labv1.LabService_PutRoster_FullMethodName: {Roles: official, Deadline: normal, Max: artefactMax},
		labv1.LabService_GetNode_FullMethodName:   {Roles: people, Deadline: normal},

		labv1.CatalogService_ListDatasets_FullMethodName:    {Roles: anybody, Deadline: normal, Cost: 5},
		labv1.CatalogService_GetDataset_FullMethodName:      {Roles: anybody, Deadline: short},
		labv1.CatalogService_RegisterKeyset_FullMethodName:  {Roles: steward, Deadline: normal, Max: artefactMax},
		labv1.CatalogService_MissingBlobs_FullMethodName:    {Roles: steward, Deadline: normal, Max: statementMax},
		labv1.CatalogService_UploadBlob_FullMethodName:      {Roles: steward, Deadline: upload, Max: chunkMax},
		labv1.CatalogService_PublishManifest_FullMethodName: {Roles: steward, Deadline: long, Max: artefactMax},
		labv1.CatalogService_OrderDisposal_FullMethodName:   {Roles: enders, Deadline: long, Max: statementMax, Cost: 10},
		labv1.CatalogService_GetDisposal_FullMethodName:     {Roles: people, Deadline: normal, Cost: 2},

		labv1.OperatorService_RecordStatement_FullMethodName: {Roles: signers, Deadline: normal, Max: statementMax},
		labv1.OperatorService_ListStatements_FullMethodName:  {Roles: people, Deadline: normal, Cost: 5},
		labv1.OperatorService_ListScenarios_FullMethodName:   {Roles: people, Deadline: normal, Cost: 5},
		labv1.OperatorService_GetScenario_FullMethodName:     {Roles: people, Deadline: normal, Cost: 2},

		labv1.JobService_ExplainJob_FullMethodName: {Roles: analyst, Deadline: normal, Cost: 5},
		labv1.JobService_SubmitJob_FullMethodName:  {Roles: analyst, Deadline: normal, Max: statementMax, Cost: 10},
		labv1.JobService_WatchJob_FullMethodName:   {Roles: people},
		labv1.JobService_GetJob_FullMethodName:     {Roles: people, Deadline: short},
		labv1.JobService_ListJobs_FullMethodName:   {Roles: people, Deadline: normal, Cost: 2},
		labv1.JobService_CancelJob_FullMethodName:  {Roles: analyst, Deadline: normal},

		labv1.ReleaseService_GetRelease_FullMethodName:   {Roles: analyst, Deadline: normal},
		labv1.ReleaseService_ListReleases_FullMethodName: {Roles: people, Deadline: normal, Cost: 2},

		labv1.CollectionService_DefineCollection_FullMethodName:  {Roles: analyst, Deadline: normal, Max: statementMax},
		labv1.CollectionService_ConfirmCollection_FullMethodName: {Roles: steward, Deadline: normal, Max: statementMax},
		labv1.CollectionService_ListCollections_FullMethodName:   {Roles: people, Deadline: normal, Cost: 2},
		labv1.CollectionService_DeliverReports_FullMethodName:    {Roles: steward, Deadline: normal, Max: statementMax},
		labv1.CollectionService_ReleaseBatch_FullMethodName:      {Roles: analyst, Deadline: counting, Cost: 10},
		labv1.CollectionService_GetBatch_FullMethodName:          {Roles: analyst, Deadline: normal},
		labv1.CollectionService_GetBatchReceipt_FullMethodName:   {Roles: auditors, Deadline: long, Cost: 10},

		labv1.AuditService_GetHead_FullMethodName:          {Roles: auditors, Deadline: short},
		labv1.AuditService_ListEntries_FullMethodName:      {Roles: auditors, Deadline: long, Cost: 5},
		labv1.AuditService_ProveEntry_FullMethodName:       {Roles: auditors, Deadline: short},
		labv1.AuditService_ProveConsistency_FullMethodName: {Roles: auditors, Deadline: short},
		labv1.AuditService_GetReceipt_FullMethodName:       {Roles: auditors, Deadline: long, Cost: 10},
	}
}

func roles(rs ...operators.Role) []string {
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = string(r)
	}
	return slices.Clip(out)
}
