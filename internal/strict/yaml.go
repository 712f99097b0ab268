// Package strict reads configuration files that mean what they say: a key that the program does not know is an error, as
// are a second document and a key given twice.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// ReadYAML reads a file into v.
func ReadYAML(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if err := YAML(data, v); err != nil {
		return fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return nil
}

// YAML reads one document into v.
func YAML(data []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("it is empty")
		}
		return err
	}
	var rest yaml.Node
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		return errors.New("it holds more than one document")
	}
	return nil
}
