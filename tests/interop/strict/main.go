// Command strict judges certificates as Go's crypto/x509 and go-spiffe do, for the tests of
// Culvert: another implementation of the same standards.
//
//	strict judge DIR                     every variant of DIR/manifest.json; verdicts as JSON
//	strict handshake CHAIN KEY ROOTS     both ends of a connection by go-spiffe, with the SVID
//	strict dial ADDRESS CHAIN KEY ROOTS  a connection to the authority at ADDRESS
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// domain is the trust domain of every test.
var domain = spiffeid.RequireTrustDomainFromString("cluster.local")

// limit is the longest that a handshake may take.
const limit = 10 * time.Second

// variant is one chain, with the roots that a verifier holds.
type variant struct {
	Name  string `json:"name"`
	Chain string `json:"chain"`
	Key   string `json:"key"`
	Roots string `json:"roots"`
}

// verdict says why each verifier refused; an empty text is consent.
type verdict struct {
	Name       string `json:"name"`
	X509Client string `json:"x509_client"`
	X509Server string `json:"x509_server"`
	Verify     string `json:"spiffe_verify"`
	Parse      string `json:"spiffe_parse"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "strict:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	switch {
	case len(words) == 2 && words[0] == "judge":
		return judge(words[1])
	case len(words) == 4 && words[0] == "handshake":
		return handshake(words[1], words[2], words[3])
	case len(words) == 5 && words[0] == "dial":
		return dial(words[1], words[2], words[3], words[4])
	}
	return errors.New("say judge, handshake or dial with their arguments")
}

func judge(folder string) error {
	text, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		return err
	}
	var variants []variant
	if err := json.Unmarshal(text, &variants); err != nil {
		return err
	}
	verdicts := make([]verdict, 0, len(variants))
	for _, one := range variants {
		verdicts = append(verdicts, one.judge(folder))
	}
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}

func (v variant) judge(folder string) verdict {
	at := func(name string) string { return filepath.Join(folder, name) }
	said := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	_, parse := x509svid.Load(at(v.Chain), at(v.Key))
	out := verdict{Name: v.Name, Parse: said(parse)}
	roots, err := certificates(at(v.Roots))
	if err != nil {
		panic(err) // the test's own roots
	}
	chain, err := certificates(at(v.Chain))
	if err != nil {
		out.X509Client, out.X509Server, out.Verify = said(err), said(err), said(err)
		return out
	}
	out.X509Client = said(strict(chain, roots, x509.ExtKeyUsageClientAuth))
	out.X509Server = said(strict(chain, roots, x509.ExtKeyUsageServerAuth))
	_, _, err = x509svid.Verify(chain, x509bundle.FromX509Authorities(domain, roots))
	out.Verify = said(err)
	return out
}

// strict is Go's own path validation for one purpose.
func strict(chain, roots []*x509.Certificate, purpose x509.ExtKeyUsage) error {
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{purpose},
	}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, intermediate := range chain[1:] {
		options.Intermediates.AddCert(intermediate)
	}
	_, err := chain[0].Verify(options)
	return err
}

func certificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return found, nil
}

func member(chain, key, roots string) (*x509svid.SVID, *x509bundle.Bundle, error) {
	svid, err := x509svid.Load(chain, key)
	if err != nil {
		return nil, nil, err
	}
	bundle, err := x509bundle.Load(domain, roots)
	return svid, bundle, err
}

func handshake(chain, key, roots string) error {
	svid, bundle, err := member(chain, key, roots)
	if err != nil {
		return err
	}
	authorize := tlsconfig.AuthorizeID(svid.ID)
	left, right := net.Pipe()
	server := tls.Server(left, tlsconfig.MTLSServerConfig(svid, bundle, authorize))
	client := tls.Client(right, tlsconfig.MTLSClientConfig(svid, bundle, authorize))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		err := server.HandshakeContext(ctx)
		if err == nil {
			_, err = server.Write([]byte("done"))
		}
		served <- err
	}()
	if err := client.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("the client: %w", err)
	}
	word := make([]byte, 4)
	if _, err := io.ReadFull(client, word); err != nil {
		return fmt.Errorf("the client: %w", err)
	}
	if err := <-served; err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	return report(client, svid.ID)
}

func dial(address, chain, key, roots string) error {
	svid, bundle, err := member(chain, key, roots)
	if err != nil {
		return err
	}
	authority, err := spiffeid.FromPath(domain, "/ns/culvert-system/sa/culvert-ca")
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSClientConfig(svid, bundle, tlsconfig.AuthorizeID(authority))
	config.NextProtos = []string{"h2"}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: limit}, Config: config}
	connection, err := dialer.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	return report(connection.(*tls.Conn), authority)
}

// report prints what was agreed on, as one line of JSON.
func report(connection *tls.Conn, peer spiffeid.ID) error {
	state := connection.ConnectionState()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"peer":    peer.String(),
		"version": tls.VersionName(state.Version),
		"group":   state.CurveID.String(),
		"alpn":    state.NegotiatedProtocol,
		"resumed": state.DidResume,
	})
}
