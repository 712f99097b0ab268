package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/reflect/protoreflect"
)

type object = map[string]any

// describe writes OpenAPI 3.1 for the services of files: one POST for each method, its body the request as protobuf's
// JSON (https://protobuf.dev/programming-guides/json/). A stream of answers is one JSON object a line.
func describe(files linker.Files) ([]byte, error) {
	d := description{paths: object{}, schemas: object{"Error": errorSchema()}}
	var tags []any
	for _, f := range files {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			tags = append(tags, object{"name": string(s.Name()), "description": comment(s)})
			for j := range s.Methods().Len() {
				if err := d.method(s.Methods().Get(j)); err != nil {
					return nil, err
				}
			}
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(object{ // encoding/json sorts the keys of maps: the same source gives the same bytes
		"openapi": "3.1.0",
		"info": object{"title": "Yingzhou lab", "version": "v1", "description": "Every call of the lab.v1 services as JSON over HTTPS, with the same client certificates, rights, limits and errors as over gRPC. " +
			"Bytes are base64, 64-bit integers are strings, absent fields have their default."},
		"paths": d.paths, "tags": tags, "components": object{"schemas": d.schemas},
	})
	return out.Bytes(), err
}

func errorSchema() object {
	return object{"type": "object", "description": "Why a call failed.", "properties": object{
		"code":    object{"type": "string", "description": "gRPC status code in lower case, such as not_found"},
		"message": object{"type": "string"},
		"details": object{"type": "array", "items": object{"type": "object"}, "description": "lab.v1.Problem, with each reason of a refusal"},
	}}
}

type description struct{ paths, schemas object }

func (d *description) method(m protoreflect.MethodDescriptor) error {
	if m.IsStreamingClient() {
		return nil // a stream of requests has no JSON form
	}
	kind, text := "application/json", comment(m)
	if m.IsStreamingServer() {
		kind = "application/x-ndjson"
	}
	in, err := d.message(m.Input())
	if err != nil {
		return err
	}
	out, err := d.message(m.Output())
	if err != nil {
		return err
	}
	d.paths[fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())] = object{"post": object{
		"operationId": string(m.Parent().Name()) + "_" + string(m.Name()), "tags": []any{string(m.Parent().Name())}, "description": text,
		"requestBody": object{"required": true, "content": object{"application/json": object{"schema": in}}},
		"responses": object{
			"200":     object{"description": "done", "content": object{kind: object{"schema": out}}},
			"default": object{"description": "failed", "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}},
		},
	}}
	return nil
}

// message notes a message's schema and returns a reference to it.
func (d *description) message(m protoreflect.MessageDescriptor) (object, error) {
	switch m.FullName() {
	case "google.protobuf.Timestamp":
		return object{"type": "string", "format": "date-time"}, nil
	case "google.protobuf.Duration":
		return object{"type": "string", "pattern": `^-?[0-9]+(\.[0-9]+)?s$`}, nil
	}
	name := strings.TrimPrefix(string(m.FullName()), string(m.ParentFile().Package())+".")
	ref := object{"$ref": "#/components/schemas/" + name}
	if _, done := d.schemas[name]; done {
		return ref, nil
	}
	properties := object{}
	d.schemas[name] = object{"type": "object", "description": comment(m), "properties": properties, "additionalProperties": false}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		schema, err := d.field(f)
		if err != nil {
			return nil, err
		}
		if text := comment(f); text != "" {
			if _, isRef := schema["$ref"]; isRef {
				schema = object{"allOf": []any{schema}}
			}
			schema["description"] = text
		}
		properties[f.JSONName()] = schema
	}
	return ref, nil
}

func (d *description) field(f protoreflect.FieldDescriptor) (object, error) {
	if f.IsMap() {
		value, err := d.single(f.MapValue())
		return object{"type": "object", "additionalProperties": value}, err
	}
	one, err := d.single(f)
	if f.IsList() {
		return object{"type": "array", "items": one}, err
	}
	return one, err
}

func (d *description) single(f protoreflect.FieldDescriptor) (object, error) {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return object{"type": "boolean"}, nil
	case protoreflect.StringKind:
		return object{"type": "string"}, nil
	case protoreflect.BytesKind:
		return object{"type": "string", "contentEncoding": "base64"}, nil
	case protoreflect.Int32Kind, protoreflect.Uint32Kind:
		return object{"type": "integer", "format": "int32"}, nil
	case protoreflect.Int64Kind, protoreflect.Uint64Kind:
		return object{"type": "string", "pattern": "^-?[0-9]+$", "format": "int64"}, nil
	case protoreflect.EnumKind:
		var names []any
		for i := range f.Enum().Values().Len() {
			names = append(names, string(f.Enum().Values().Get(i).Name()))
		}
		return object{"type": "string", "enum": names}, nil
	case protoreflect.MessageKind:
		return d.message(f.Message())
	}
	return nil, fmt.Errorf("field %s: kind %s has no schema here", f.FullName(), f.Kind())
}

// comment is what stands above or beside a declaration, as one paragraph.
func comment(d protoreflect.Descriptor) string {
	loc := d.ParentFile().SourceLocations().ByDescriptor(d)
	text := loc.LeadingComments
	if text == "" {
		text = loc.TrailingComments
	}
	return strings.Join(strings.Fields(text), " ")
}
