package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// Strict makes every mistake in a command line an error with exit code 2. Cobra returns plain errors for wrong
// arguments and missing flags, and lets a group of commands be called with anything at all.
func Strict(root *cobra.Command) {
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return With(Misused, err) })
	visit(root)
}

func visit(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		visit(sub)
	}
	switch {
	case cmd.HasSubCommands() && !cmd.Runnable():
		cmd.Args = cobra.ArbitraryArgs
		cmd.DisableFlagsInUseLine = true
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknown(cmd, args[0])
		}
	case cmd.Runnable():
		args := cmd.Args
		cmd.Args = func(cmd *cobra.Command, given []string) error {
			if args != nil {
				if err := args(cmd, given); err != nil {
					return Usage("%s: %w", cmd.CommandPath(), err)
				}
			}
			// Cobra checks flags after arguments and its error has no type; asking first gives it one.
			return With(Misused, cmd.ValidateRequiredFlags())
		}
	}
}

func unknown(cmd *cobra.Command, arg string) error {
	cmd.SuggestionsMinimumDistance = 2 // what cobra itself takes for the root
	if near := cmd.SuggestionsFor(arg); len(near) > 0 {
		return Usage("%s has no command %q; did you mean %s?", cmd.CommandPath(), arg, strings.Join(near, " or "))
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return Usage("%s has no command %q; it has %s", cmd.CommandPath(), arg, strings.Join(names, ", "))
}
