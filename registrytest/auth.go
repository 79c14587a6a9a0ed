package registrytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The one user of a registry with [Options].Htpasswd.
const (
	User     = "tester"
	Password = "registrytest"
)

// withPassword writes a password file into dir, by the tool that users take,
// and returns the configuration that asks for it.
func withPassword(t TB, dir string) map[string]any {
	t.Helper()
	line, err := exec.Command(findTool(t, "htpasswd"), "-Bbn", User, Password).Output()
	if err != nil {
		t.Fatalf("htpasswd: %v", err)
	}
	path := filepath.Join(dir, "htpasswd")
	writeFile(t, path, bytes.TrimSpace(line))
	return map[string]any{"auth.htpasswd.realm": "registrytest", "auth.htpasswd.path": path}
}

// withTLS writes a certificate for 127.0.0.1 into dir, which is its own
// authority, and returns the configuration that shows it.
func withTLS(t TB, dir string) map[string]any {
	t.Helper()
	cert, key, err := selfSigned()
	if err != nil {
		t.Fatalf("certificate: %v", err)
	}
	certs := certDir(dir)
	if err := os.MkdirAll(certs, 0o700); err != nil {
		t.Fatalf("certificate: %v", err)
	}
	keyPath := filepath.Join(dir, "server-key.pem")
	writeFile(t, filepath.Join(certs, "ca.crt"), cert)
	writeFile(t, keyPath, key)
	return map[string]any{"http.tls.certificate": filepath.Join(certs, "ca.crt"), "http.tls.key": keyPath}
}

// certDir holds the authority alone: skopeo takes every *.key in a
// certificate directory for a client's.
func certDir(dir string) string { return filepath.Join(dir, "certs") }

// selfSigned returns a certificate and its key in PEM.
func selfSigned() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "registrytest"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return cert, key, nil
}

// newClient returns an HTTP client that trusts the registry of o, whose files
// are in dir, and knows its password.
func newClient(t TB, o Options, dir string) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	if o.TLS {
		pool := x509.NewCertPool()
		ca, err := os.ReadFile(filepath.Join(certDir(dir), "ca.crt"))
		if err != nil || !pool.AppendCertsFromPEM(ca) {
			t.Fatalf("certificate: %v", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 2 * time.Minute}
	if o.Htpasswd {
		client.Transport = basicAuth{transport}
	}
	return client
}

// basicAuth adds the user's password to every request.
type basicAuth struct{ next http.RoundTripper }

func (b basicAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.SetBasicAuth(User, Password)
	return b.next.RoundTrip(req)
}

func writeFile(t TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("%v", err)
	}
}
