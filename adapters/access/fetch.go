package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
)

// newFetch returns what fetches keys from an https URL. It follows no redirect and
// keeps no connection. ca is a PEM file of the authorities that are trusted for it;
// empty: the system's.
func newFetch(address, ca string) (func(context.Context) (*keySet, error), error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("the keys of bearer tokens: want a file, or an https URL without a user")
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("the authorities for the keys of bearer tokens: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the authorities for the keys of bearer tokens: %s holds no PEM certificate", ca)
		}
	}
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: settings, DisableKeepAlives: true, ForceAttemptHTTP2: true,
			Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) (*keySet, error) { return fetchKeys(ctx, client, address) }, nil
}

func fetchKeys(ctx context.Context, client *http.Client, address string) (*keySet, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s; want 200", address, response.Status)
	}
	keys, err := readKeys(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %w", address, err)
	}
	return keys, nil
}
