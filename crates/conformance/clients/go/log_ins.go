package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// runLogIns has franz-go log in by every mechanism of Kafka, over TLS.
func runLogIns(checks *checks, address string) {
	folder := os.Getenv("CONFORMANCE_CREDENTIALS")
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			panic(err)
		}
		return text
	}
	config := func() *tls.Config {
		authorities := x509.NewCertPool()
		authorities.AppendCertsFromPEM(read("authority.pem"))
		return &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12}
	}
	bearer := func(name string) kgo.Opt {
		return kgo.SASL(oauth.Auth{Token: string(read(name))}.AsMechanism())
	}
	ann := func(password string) map[string]kgo.Opt {
		proof := scram.Auth{User: "ann", Pass: password}
		return map[string]kgo.Opt{
			"PLAIN":         kgo.SASL(plain.Auth{User: "ann", Pass: password}.AsMechanism()),
			"SCRAM-SHA-256": kgo.SASL(proof.AsSha256Mechanism()),
			"SCRAM-SHA-512": kgo.SASL(proof.AsSha512Mechanism()),
		}
	}
	create := func(ctx context.Context, topic string, tlsConfig *tls.Config, opts ...kgo.Opt) error {
		opts = append(opts, kgo.SeedBrokers(address), kgo.DialTLSConfig(tlsConfig), kgo.RequestRetries(0))
		client, err := kgo.NewClient(opts...)
		if err != nil {
			return err
		}
		defer client.Close()
		response, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, nil, topic)
		if err != nil {
			return err
		}
		return response.Err
	}
	isLetIn := func(ctx context.Context, user string, tlsConfig *tls.Config, opts ...kgo.Opt) error {
		if err := create(ctx, unique(user+"-topic"), tlsConfig, opts...); err != nil {
			return err
		}
		if err := create(ctx, unique("other"), tlsConfig, opts...); !errors.Is(err, kerr.TopicAuthorizationFailed) {
			return fmt.Errorf("a topic of nobody's: %v", err)
		}
		return nil
	}
	isKeptOut := func(ctx context.Context, opts ...kgo.Opt) error {
		err := create(ctx, unique("ann-topic"), config(), opts...)
		if err == nil || !strings.Contains(strings.ToUpper(err.Error()), "SASL") {
			return fmt.Errorf("not refused by SASL: %v", err)
		}
		return nil
	}
	for _, name := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		checks.check("franz-go: "+name, func(ctx context.Context) error {
			return isLetIn(ctx, "ann", config(), ann("ann-password")[name])
		})
		checks.check("franz-go: "+name+" with a wrong password is refused", func(ctx context.Context) error {
			return isKeptOut(ctx, ann("wrong")[name])
		})
	}
	checks.check("franz-go: OAUTHBEARER", func(ctx context.Context) error {
		return isLetIn(ctx, "tom", config(), bearer("token"))
	})
	checks.check("franz-go: OAUTHBEARER with another issuer's token is refused", func(ctx context.Context) error {
		return isKeptOut(ctx, bearer("wrong.token"))
	})
	checks.check("franz-go: a client certificate", func(ctx context.Context) error {
		pair, err := tls.X509KeyPair(read("mia.pem"), read("mia.key"))
		if err != nil {
			return err
		}
		with := config()
		with.Certificates = []tls.Certificate{pair}
		return isLetIn(ctx, "mia", with)
	})
}
