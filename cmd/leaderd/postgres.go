package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/pglog"
)

// newPostgresCommand prints the SQL that a database administrator runs where leaderd
// may not: it keeps passwords and privileges of an owner out of leaderd's hands.
func newPostgresCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "postgres", Short: "Print the SQL that prepares a PostgreSQL database for the registry",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var schema string
	var version int
	cmd.PersistentFlags().StringVar(&schema, "schema", "leadership", "the schema that holds the registry, registry.postgres.schema")
	roles := &cobra.Command{
		Use:   "roles",
		Short: "The roles: owner, runtime (what leaderd needs), reader, application",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return printSQL(cmd)(pglog.RoleSQL(schema)) },
	}
	tables := &cobra.Command{
		Use:   "schema",
		Short: "Tables and functions, to be run as one transaction by a member of the owner role",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return printSQL(cmd)(pglog.SchemaSQL(schema, version)) },
	}
	tables.Flags().IntVar(&version, "from", 0, "the version that is there already; 0: none")
	cmd.AddCommand(roles, tables)
	return cmd
}

func printSQL(cmd *cobra.Command) func(sql string, err error) error {
	return func(sql string, err error) error {
		if err != nil {
			return &usageError{err}
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), sql)
		return err
	}
}
