package gitlab_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
)

// recorded is what a real runner 19.4 wrote to JOB_RESPONSE_FILE.
const recorded = "../testing/gitlabtest/testdata/recorded-19.4/job_response.json"

func TestParseJobResponse(t *testing.T) {
	data, err := os.ReadFile("testdata/job_response.json")
	require.NoError(t, err)
	job, err := gitlab.ParseJobResponse(data)
	require.NoError(t, err)
	require.EqualValues(t, 1000, job.ID)
	require.Equal(t, "build", job.JobInfo.Name)
	require.EqualValues(t, 42, *job.JobInfo.ProjectID)
	require.Equal(t, "group/project", *job.JobInfo.ProjectFullPath)
	require.EqualValues(t, 7, *job.JobInfo.PipelineID)
	require.EqualValues(t, 9, *job.JobInfo.UserID)
	require.True(t, *job.GitInfo.Protected)
	require.Equal(t, "main", *job.GitInfo.Ref)
	require.Equal(t, "branch", *job.GitInfo.RefType)
	require.EqualValues(t, 3600, *job.RunnerInfo.Timeout)
	require.Equal(t, gitlab.Image{
		Name: "alpine:3.20", Entrypoint: []string{"/bin/sh"}, PullPolicies: []string{"always"}, Options: job.Image.Options,
	}, job.Image)
	require.Empty(t, job.Image.DockerUser())
	require.True(t, job.Image.HasEntrypoint())
	require.False(t, job.HasSteps())
	require.Equal(t, "linux/arm64", job.Image.Platform())
	require.Equal(t, []gitlab.Image{{Name: "postgres:16", Alias: "db"}}, job.Services)
	require.Equal(t, "p4ss", job.Credentials[0].Password)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", job.Credentials, job.Credentials, job.Credentials, job.Credentials), "p4ss")
	require.Equal(t, "/builds/group/project", job.ProjectDir("/builds"))
}

func TestParseTheRecordedResponse(t *testing.T) {
	data, err := os.ReadFile(recorded)
	require.NoError(t, err)
	job, err := gitlab.ParseJobResponse(data)
	require.NoError(t, err)
	require.EqualValues(t, 1000, job.ID)
	require.Equal(t, "alpine:3.20", job.Image.Name)
	require.Len(t, job.Services, 2)
	require.True(t, *job.GitInfo.Protected)
	require.Equal(t, "group/project", *job.JobInfo.ProjectFullPath)
	require.Equal(t, "/builds/group/project", job.ProjectDir("/builds"))
}

func TestAbsentIsUnknown(t *testing.T) {
	for name, data := range map[string]string{
		"a boot_verify job": `{"id":9007199254740993}`,
		"nulls":             `{"id":9007199254740993,"git_info":null,"job_info":null,"image":null,"services":null,"runner_info":{"timeout":null}}`,
		"null facts":        `{"id":9007199254740993,"git_info":{"protected":null,"ref":null},"job_info":{"project_id":null}}`,
	} {
		t.Run(name, func(t *testing.T) {
			job, err := gitlab.ParseJobResponse([]byte(data))
			require.NoError(t, err)
			require.EqualValues(t, 9007199254740993, job.ID)
			require.Nil(t, job.GitInfo.Protected)
			require.Nil(t, job.GitInfo.Ref)
			require.Nil(t, job.JobInfo.ProjectID)
			require.Nil(t, job.RunnerInfo.Timeout)
			require.Empty(t, job.ProjectDir("/builds"))
		})
	}
}

func TestForgedKeysDoNotCount(t *testing.T) {
	for name, data := range map[string]string{
		"case":            `{"ID":2,"Id":3,"id":1,"iD":4,"git_info":{"protected":false,"Protected":true,"PROTECTED":true},"Git_Info":{"protected":true}}`,
		"case, earlier":   `{"Git_Info":{"protected":true},"git_info":{"protected":false},"id":1,"ID":2}`,
		"letters beyond":  `{"id":1,"git_info":{"protected":false},"job_info":{"u` + "\u017f" + `er_id":1},"` + "\u212a" + `":1}`,
		"escaped letters": `{"id":1,"\u0049D":2,"git_info":{"protected":false}}`,
	} {
		t.Run(name, func(t *testing.T) {
			job, err := gitlab.ParseJobResponse([]byte(data))
			require.NoError(t, err)
			require.EqualValues(t, 1, job.ID)
			require.False(t, *job.GitInfo.Protected)
			require.Nil(t, job.JobInfo.UserID)
		})
	}
}

func TestRefusedResponses(t *testing.T) {
	nested := func(n int) string {
		return `{"id":1,"inputs":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
	}
	for name, c := range map[string]struct{ data, want string }{
		"empty":              {``, "ends too early"},
		"cut off":            {`{"id":1,"git_info":{`, "ends too early"},
		"no object":          {`[]`, "wrong type"},
		"no id":              {`{}`, "no positive job id"},
		"id zero":            {`{"id":0}`, "no positive job id"},
		"id negative":        {`{"id":-1}`, "no positive job id"},
		"id as text":         {`{"id":"1"}`, `"id" is of the wrong type`},
		"id too large":       {`{"id":9223372036854775808}`, `"id" is of the wrong type`},
		"id twice":           {`{"id":1,"id":2}`, "occurs twice"},
		"id twice, escaped":  {`{"id":1,"\u0069d":2}`, "occurs twice"},
		"git_info twice":     {`{"id":1,"git_info":{"protected":false},"git_info":{"protected":true}}`, "occurs twice"},
		"protected twice":    {`{"id":1,"git_info":{"protected":false,"protected":true}}`, "occurs twice"},
		"protected as text":  {`{"id":1,"git_info":{"protected":"true"}}`, "wrong type"},
		"a second value":     {`{"id":1}{"id":2}`, "something follows"},
		"rubbish after":      {`{"id":1} x`, "something follows"},
		"not UTF-8":          {"{\"id\":1,\"image\":{\"name\":\"\xff\"}}", "not UTF-8"},
		"nested too deep":    {nested(64), "nests deeper"},
		"syntax":             {`{"id":1,"secret":"geheim"]`, "syntax error at byte"},
		"too large":          {`{"id":1,"x":"` + strings.Repeat("x", gitlab.MaxJobResponse) + `"}`, "larger than"},
		"nested beyond hope": {nested(1 << 20), "nests deeper"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gitlab.ParseJobResponse([]byte(c.data))
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "geheim")
		})
	}
	_, err := gitlab.ParseJobResponse([]byte(nested(60)))
	require.NoError(t, err, "ordinary nesting")
}

func TestProjectDir(t *testing.T) {
	for url, want := range map[string]string{
		"https://x:y@gitlab.example/group/sub/project.git": "/builds/group/sub/project",
		"https://gitlab.example/a/../../../etc.git":        "/builds/etc",
		"https://gitlab.example/":                          "",
		"https://gitlab.example/..":                        "",
		"::":                                               "",
		"":                                                 "",
	} {
		job := gitlab.JobResponse{GitInfo: gitlab.GitInfo{RepoURL: url}}
		require.Equal(t, want, job.ProjectDir("/builds"), url)
	}
}

func FuzzParseJobResponse(f *testing.F) {
	for _, file := range []string{"testdata/job_response.json", recorded} {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"id":1,"ID":2,"git_info":{"protected":true,"Protected":false}}`))
	f.Add([]byte(`{"id":1,"id":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		job, err := gitlab.ParseJobResponse(data)
		if err != nil {
			require.Nil(t, job)
			return
		}
		require.Positive(t, job.ID)
		dir := job.ProjectDir("/builds")
		require.True(t, dir == "" || strings.HasPrefix(dir, "/builds/"), "%q", dir)
		require.NotContains(t, dir, "/../")
	})
}
