// Command runner19 is GitLab Runner 19.4.0 with the custom executor: the released packages, unmodified, under a main
// function that is theirs but for what is left out. That is the other executors, steps, remote caches and secret
// resolvers. The five modules that the module proxy does not have are replaced by small ones of our own,
// in standins; each says what it stands in for, what it gives and what is switched off.
//
// It is a module of its own, so that the runner's many dependencies never meet Airlock's. Tests, the demonstration
// and the benchmarks run it (gitlabtest.BuildRunner), and their helper image carries it for caches and artifacts.
package main

import (
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli"

	"gitlab.com/gitlab-org/gitlab-runner/commands"
	"gitlab.com/gitlab-org/gitlab-runner/commands/helpers"
	"gitlab.com/gitlab-org/gitlab-runner/common"
	"gitlab.com/gitlab-org/gitlab-runner/executors"
	"gitlab.com/gitlab-org/gitlab-runner/executors/custom"
	"gitlab.com/gitlab-org/gitlab-runner/helpers/homedir"
	"gitlab.com/gitlab-org/gitlab-runner/log"
	"gitlab.com/gitlab-org/gitlab-runner/network"
	"gitlab.com/gitlab-org/gitlab-runner/router"

	_ "gitlab.com/gitlab-org/gitlab-runner/shells" // registers bash and PowerShell
)

func main() {
	defer exitAfterLogPanic()
	providers := executors.NewProviderRegistry(map[string]common.ExecutorProvider{
		"custom": custom.NewProvider("gitlab-runner"), // what scripts in a sandbox call the program
	})
	requests := network.NewAPIRequestsCollector()
	certificates := commands.GetDefaultCertificateDirectory()
	client := router.NewClient(network.NewGitLabClient(
		network.WithAPIRequestsCollector(requests),
		network.WithCertificateDirectory(certificates),
		network.WithExecutorProviderFunc(providers.GetByName),
	), certificates, common.AppVersion.UserAgent())
	defer client.Shutdown()

	app := cli.NewApp()
	app.Name = filepath.Base(os.Args[0])
	app.Usage = "a GitLab Runner"
	app.Version = common.AppVersion.ShortLine()
	cli.VersionPrinter = common.AppVersion.Printer
	app.Commands = []cli.Command{
		commands.NewListCommand(),
		commands.NewRegisterCommand(client, providers),
		commands.NewRunCommand(client, requests, providers),
		commands.NewRunSingleCommand(client, providers),
		commands.NewUnregisterCommand(client),
		commands.NewVerifyCommand(client),
		helpers.NewArtifactsDownloaderCommand(),
		helpers.NewArtifactsUploaderCommand(),
		helpers.NewCacheArchiverCommand(),
		helpers.NewCacheExtractorCommand(),
		helpers.NewCacheInitCommand(),
	}
	app.CommandNotFound = func(_ *cli.Context, command string) {
		logrus.Fatalln("Command", command, "not found.")
	}
	app.Before = func(*cli.Context) error { return homedir.New().Fix() }
	log.ConfigureLogging(app)
	if err := app.Run(os.Args); err != nil {
		logrus.Fatal(err)
	}
}

// exitAfterLogPanic ends the program when logrus.Panic, which has said why, unwinds it; other panics go on.
func exitAfterLogPanic() {
	if r := recover(); r != nil {
		if _, logged := r.(*logrus.Entry); logged {
			os.Exit(1)
		}
		panic(r)
	}
}
