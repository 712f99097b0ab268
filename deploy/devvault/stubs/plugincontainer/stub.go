package plugincontainer

import (
	"errors"
	"os/exec"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"
)

type Config struct {
	GroupAdd                                  int
	Rootless, DisableNetwork, CapIPCLock      bool
	Entrypoint, Args, Env                     []string
	Image, Tag, SHA256, Runtime, CgroupParent string
	Labels                                    map[string]string
	NanoCpus, Memory                          int64
}

func (*Config) NewContainerRunner(hclog.Logger, *exec.Cmd, string) (runner.Runner, error) {
	return nil, errors.New("container plugins are not built into this server")
}
