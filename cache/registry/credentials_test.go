package registry

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCredentialsFindTheirRegistry(t *testing.T) {
	for _, form := range []string{"hub.example", "https://hub.example", "https://Hub.Example/v2/", "hub.example:443", "https://user@hub.example/"} {
		require.NotNil(t, authenticator("hub.example", []Credentials{{form, "u", "p"}}), form)
	}
	for _, form := range []string{"docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"} {
		require.NotNil(t, authenticator("index.docker.io", []Credentials{{form, "u", "p"}}), form)
	}
	for _, form := range []string{"", "example", "hub.example.evil", "evil/hub.example", "hub.example:5000", "https://hub.example@evil"} {
		require.Nil(t, authenticator("hub.example", []Credentials{{form, "u", "p"}}), form)
	}
	require.Nil(t, authenticator("hub.example", []Credentials{{"hub.example", "", ""}}))
}

func TestCredentialsDoNotPrint(t *testing.T) {
	creds := Credentials{Registry: "http://hub.example/v2/", Username: "ci", Password: "hunter2"}
	for _, text := range []string{fmt.Sprint(creds), fmt.Sprintf("%+v", creds), fmt.Sprintf("%#v", creds), fmt.Sprintf("%v", &creds)} {
		require.NotContains(t, text, "hunter2")
		require.Contains(t, text, "hub.example")
	}
}
