// A workload that uses go-spiffe, unchanged, against the agent's Workload API.
//
//	go-spiffe fetch AUDIENCE    everything once, verified with the library; one JSON line
//	go-spiffe watch             one JSON line for each certificate pushed, until it is ended
//
// The socket comes from SPIFFE_ENDPOINT_SOCKET, as for any workload.
package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		print(map[string]any{"error": err.Error()})
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "fetch":
		return fetch(arguments[1])
	case len(arguments) == 1 && arguments[0] == "watch":
		return watch()
	default:
		return fmt.Errorf("usage: go-spiffe fetch AUDIENCE | watch")
	}
}

func fetch(audience string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()

	x509Context, err := client.FetchX509Context(ctx)
	if err != nil {
		return fmt.Errorf("X509-SVID: %w", err)
	}
	svid := x509Context.DefaultSVID()
	id, chains, err := x509svid.Verify(svid.Certificates, x509Context.Bundles)
	if err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	public, ok := svid.Certificates[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(svid.PrivateKey.Public()) {
		return fmt.Errorf("key is not the certificate's")
	}
	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return fmt.Errorf("X.509 bundles: %w", err)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, bundles); err != nil {
		return fmt.Errorf("chain, by the bundles fetched alone: %w", err)
	}

	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return fmt.Errorf("JWT-SVID: %w", err)
	}
	keys, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return fmt.Errorf("JWT bundles: %w", err)
	}
	own, err := jwtsvid.ParseAndValidate(token.Marshal(), keys, []string{audience})
	if err != nil {
		return fmt.Errorf("token, by the library: %w", err)
	}
	validated, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience)
	if err != nil {
		return fmt.Errorf("token, by the agent: %w", err)
	}
	if _, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience+"-other"); err == nil {
		return fmt.Errorf("token holds for another audience")
	}
	if own.ID != id || validated.ID != id {
		return fmt.Errorf("token is of %s and %s, certificate of %s", own.ID, validated.ID, id)
	}
	print(map[string]any{
		"id":     id.String(),
		"serial": svid.Certificates[0].SerialNumber.Text(16),
		"chain":  len(chains[0]),
		"expiry": own.Expiry.Unix(),
	})
	return nil
}

func watch() error {
	client, err := workloadapi.New(context.Background())
	if err != nil {
		return err
	}
	defer client.Close()
	return client.WatchX509Context(context.Background(), watcher{})
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svid := update.DefaultSVID()
	print(map[string]any{"id": svid.ID.String(), "serial": svid.Certificates[0].SerialNumber.Text(16)})
}

func (watcher) OnX509ContextWatchError(err error) {
	print(map[string]any{"error": err.Error()})
}

func print(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}
