package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/airlock-ci/airlock/internal/private"
)

// The two ends of the boundary know each other by a pair of self-signed certificates, each end trusting
// exactly the other's. They lie in a directory that only root (Windows: the system and administrators) may read, so
// that a restarted supervisor can still talk to the executor it left; go-plugin's own AutoMTLS keeps its keys in
// memory and cannot.
const (
	serverEnd = "airlock-executor"
	clientEnd = "airlock-host" // the supervisor; executors that run know it by this name
	// tlsLifetime is long because the files live in a run directory and are made anew with it.
	tlsLifetime = 10 * 365 * 24 * time.Hour
)

// EnsureTLS makes the certificates in dir unless usable ones are there. An executor that lives on with
// certificates that had to be replaced cannot be talked to any more.
func EnsureTLS(dir string) error {
	if _, err := ServerTLS(dir); err == nil {
		if _, err := ClientTLS(dir); err == nil {
			return nil
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := private.MakeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // a no-op once renamed
	if err := private.MakeDir(fresh); err != nil {
		return err
	}
	for _, name := range []string{serverEnd, clientEnd} {
		if err := writeCertificate(fresh, name); err != nil {
			return fmt.Errorf("making the certificate of %s: %w", name, err)
		}
	}
	return os.Rename(fresh, dir)
}

// ServerTLS returns the executor's configuration: it accepts the supervisor alone.
func ServerTLS(dir string) (*tls.Config, error) {
	own, other, err := loadEnds(dir, serverEnd, clientEnd)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    other,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

// ClientTLS returns the supervisor's configuration: it accepts the executor alone.
func ClientTLS(dir string) (*tls.Config, error) {
	own, other, err := loadEnds(dir, clientEnd, serverEnd)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own},
		RootCAs:      other,
		ServerName:   serverEnd,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

func loadEnds(dir, own, other string) (tls.Certificate, *x509.CertPool, error) {
	cert, err := tls.LoadX509KeyPair(certPath(dir, own), keyPath(dir, own))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("loading the certificate of %s: %w", own, err)
	}
	if time.Now().After(cert.Leaf.NotAfter) {
		return tls.Certificate{}, nil, fmt.Errorf("the certificate of %s has expired", own)
	}
	text, err := os.ReadFile(certPath(dir, other))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("loading the certificate of %s: %w", other, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return tls.Certificate{}, nil, errors.New("no certificate in " + certPath(dir, other))
	}
	return cert, pool, nil
}

func certPath(dir, name string) string { return filepath.Join(dir, name+".pem") }
func keyPath(dir, name string) string  { return filepath.Join(dir, name+".key") }

func writeCertificate(dir, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             time.Now().Add(-time.Hour), // a clock that is set back a little
		NotAfter:              time.Now().Add(tlsLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyPath(dir, name), "PRIVATE KEY", secret); err != nil {
		return err
	}
	return writePEM(certPath(dir, name), "CERTIFICATE", cert)
}

func writePEM(path, kind string, data []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600)
}
