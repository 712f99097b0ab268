package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/node"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/image"
)

// imageView is a worker's image as programs read it.
type imageView struct {
	Digest  enclave.Digest `json:"digest"`  // of the image's config: what a scenario approves
	Layer   string         `json:"layer"`   // of its one layer
	Program enclave.Digest `json:"program"` // of the bare program
	Arch    string         `json:"arch"`
	Bytes   int            `json:"bytes"` // of the program
	File    string         `json:"file,omitempty"`
}

func (v imageView) text(w io.Writer) {
	fmt.Fprintf(w, "image    %s\nlayer    %s\nprogram  %s\nfor      linux/%s, %d bytes\n", v.Digest, v.Layer, v.Program, v.Arch, v.Bytes)
}

func (a *app) imageCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "The worker's container image: build, digest, verify",
		Long: `The image holds the worker program and nothing else, and is the same, bit by bit, wherever it is built from the same
program. The digest of its config is what a scenario approves, what the node checks before each start, and what a receipt
carries. None of these commands needs a lab or Docker.`}
	cmd.AddCommand(a.imageBuildCmd(), a.imageDigestCmd(), a.imageVerifyCmd())
	return cmd
}

// workerImage makes the image of the worker that --worker names.
func (a *app) workerImage() (*image.Image, imageView, error) {
	path, err := node.WorkerPath(a.worker)
	if err != nil {
		return nil, imageView{}, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, imageView{}, fmt.Errorf("worker program: %w (build it beside this program, or name it with --worker)", err)
	}
	img, err := image.New(program)
	if err != nil {
		return nil, imageView{}, fmt.Errorf("worker %q: %w", path, err)
	}
	return img, imageView{Digest: img.Digest, Layer: img.Layer, Program: canon.Sum(program), Arch: img.Arch, Bytes: len(program)}, nil
}

func (a *app) imageBuildCmd() *cobra.Command {
	return &cobra.Command{Use: "build FILE", Short: "Write the image as an archive for `docker load`", Args: cobra.ExactArgs(1), Example: "  lab image build worker.tar",
		RunE: func(cmd *cobra.Command, args []string) error {
			img, v, err := a.workerImage()
			if err != nil {
				return err
			}
			if err := a.write(args[0], func(w io.Writer) error { return img.WriteTo(w, "yingzhou-worker:latest") }); err != nil {
				return err
			}
			if args[0] == "-" {
				return nil
			}
			v.File = args[0]
			return a.print(v, v.text)
		}}
}

func (a *app) imageDigestCmd() *cobra.Command {
	return &cobra.Command{Use: "digest", Short: "Print the digests by which the worker is approved", Args: cobra.NoArgs, Example: "  lab image digest --worker bin/worker",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, v, err := a.workerImage()
			if err != nil {
				return err
			}
			return a.print(v, v.text)
		}}
}

func (a *app) imageVerifyCmd() *cobra.Command {
	return &cobra.Command{Use: "verify DIGEST [FILE]", Short: "Check that an archive, or the worker program, is the image that was approved", Args: cobra.RangeArgs(1, 2),
		Long: `verify builds the image again from the program in the archive, or from the worker program, and compares. An archive with
anything else in it does not verify, whatever its digest.`,
		Example: "  lab image verify sha256:5c1f… worker.tar",
		RunE: func(cmd *cobra.Command, args []string) error {
			want, err := enclave.ParseDigest(args[0])
			if err != nil {
				return cli.With(cli.Misused, err)
			}
			var got enclave.Digest
			name := ""
			if len(args) == 2 {
				img, err := image.Read(args[1])
				if err != nil {
					return cli.With(cli.Unverified, err)
				}
				got, name = img.Digest, args[1]
			} else {
				_, v, err := a.workerImage()
				if err != nil {
					return err
				}
				got = v.Digest
				if name, err = node.WorkerPath(a.worker); err != nil {
					return err
				}
			}
			if got != want {
				return cli.With(cli.Unverified, &runner.DigestError{Worker: name, Want: want, Got: got})
			}
			return a.print(struct {
				Digest enclave.Digest `json:"digest"`
			}{got}, func(w io.Writer) { fmt.Fprintf(w, "%s is the image %s.\n", name, got) })
		}}
}
