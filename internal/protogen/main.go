// Protogen compiles the lab's .proto files and writes the Go code that is committed beside them, and an OpenAPI
// description of the JSON form of the same calls. It is pure Go with every generator pinned in its own go.mod, so that the
// same files come out wherever it runs; go:generate lines call it, and CI fails where its output differs.
//
//	go run -C internal/protogen . [-openapi FILE] FOLDER...
//
// Folders and files are relative to the root of the lab's module, as are imports in .proto files.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	openapi := flag.String("openapi", "", "file for an OpenAPI description of the folders' services")
	flag.Parse()
	if err := run(context.Background(), filepath.Join("..", ".."), *openapi, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, openapi string, dirs []string) error {
	var names []string
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(root, dir, "*.proto"))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no .proto file in %s", dir)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				return err
			}
			names = append(names, filepath.ToSlash(rel))
		}
	}
	slices.Sort(names)
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := c.Compile(ctx, names...)
	if err != nil {
		return err
	}
	all := closure(files)
	for _, plugin := range []struct{ name, options string }{
		{"protoc-gen-go", "paths=source_relative"},
		{"protoc-gen-go-grpc", "paths=source_relative,require_unimplemented_servers=true"},
	} {
		if err := generate(ctx, root, plugin.name, plugin.options, names, all); err != nil {
			return fmt.Errorf("%s: %w", plugin.name, err)
		}
	}
	if openapi == "" {
		return nil
	}
	data, err := describe(files)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, openapi), data, 0o644)
}

// closure lists files and what they import, imports first, as plugins want them.
func closure(files linker.Files) (out []*descriptorpb.FileDescriptorProto) {
	seen := map[string]bool{}
	var visit func(protoreflect.FileDescriptor)
	visit = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			visit(f.Imports().Get(i).FileDescriptor)
		}
		out = append(out, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, f := range files {
		visit(f)
	}
	return out
}

// generate runs a plugin as protoc does: a request on its standard input, files on its standard output.
func generate(ctx context.Context, root, plugin, options string, names []string, files []*descriptorpb.FileDescriptorProto) error {
	in, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: &options, ProtoFile: files})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var answer pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return errors.New(answer.GetError())
	}
	for _, f := range answer.File {
		if err := os.WriteFile(filepath.Join(root, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
