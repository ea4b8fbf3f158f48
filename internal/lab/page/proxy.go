// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"html/template"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// cookieName holds the browser's half of an operator's sitting; the name binds it to this host (RFC 6265bis, 4.1.3.2 needs
// TLS for __Host-, which a loopback page has not).
const cookieName = "sdbox-operator"

// sitting is how long an exchanged link is good for.
const sitting = 12 * time.Hour

// Console is how the operators' page of the gateway is reached.
type Console struct {
	Address     string          // host:port as dialled inside the gateway's place
	ServerName  string          // the gateway's name in its certificate
	TLS         *tls.Config     // roots and the lab operator's certificate
	DialContext DialContextFunc // into the gateway's place
}

// DialContextFunc opens a connection.
type DialContextFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Operators is a proxy on the loopback interface that holds a lab operator's certificate, so that a browser needs none. It
// is entered by a link that works once.
type Operators struct {
	address string
	enter   *template.Template
	proxy   *httputil.ReverseProxy

	mu     sync.Mutex
	token  string    // of the link, empty once exchanged; guarded by mu
	cookie string    // of the one sitting; guarded by mu
	until  time.Time // end of the sitting; guarded by mu
}

// NewOperators makes the proxy for address, "127.0.0.1:8081".
func NewOperators(address string, console Console) (*Operators, error) {
	enter, err := template.ParseFS(web, "web/enter.html")
	if err != nil {
		return nil, fmt.Errorf("operators' page: %w", err)
	}
	conf := console.TLS.Clone()
	conf.ServerName = console.ServerName
	target := &url.URL{Scheme: "https", Host: console.Address}
	o := &Operators{address: address, enter: enter}
	o.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Header.Del("Cookie") // ours alone; Host stays the browser's, so that the gateway's own origin check still holds
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return console.DialContext(ctx, network, console.Address)
			},
			TLSClientConfig:     conf,
			ForceAttemptHTTP2:   true,
			MaxIdleConns:        16,
			IdleConnTimeout:     time.Minute,
			TLSHandshakeTimeout: 5 * time.Second,
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "The gateway does not answer. Look at its log, and reload this page.", http.StatusBadGateway)
		},
		ErrorLog: log.New(io.Discard, "", 0), // a browser that closes a live page is no error
	}
	return o, nil
}

// Link makes a new link that can be exchanged once; an older one stops working.
func (o *Operators) Link() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.token = rand.Text()
	return "http://" + o.address + "/enter?link=" + o.token
}

// Handler answers at the proxy's address and nowhere else, and only in the sitting begun with the link.
func (o *Operators) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /enter", o.ask)
	mux.HandleFunc("POST /enter", o.exchange)
	mux.HandleFunc("GET /enter.css", static("web/style.css", "text/css; charset=utf-8"))
	mux.Handle("/", o.admit(o.proxy))
	_, port, _ := net.SplitHostPort(o.address)
	same := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != o.address && r.Host != "localhost:"+port {
			http.Error(w, "this page answers at http://"+o.address+" only", http.StatusMisdirectedRequest)
			return
		}
		same.ServeHTTP(w, r)
	})
}

// ask shows a button: a link that is only looked at, by a preview or a scanner, is not used up.
func (o *Operators) ask(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	_ = o.enter.Execute(w, r.URL.Query().Get("link")) // the browser has gone: nobody to tell
}

// exchange takes the link's token and gives the sitting's cookie.
func (o *Operators) exchange(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	token := r.PostFormValue("link")
	o.mu.Lock()
	good := o.token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(o.token)) == 1
	if good {
		o.token, o.cookie, o.until = "", rand.Text(), time.Now().Add(sitting)
	}
	cookie := o.cookie
	o.mu.Unlock()
	if !good {
		http.Error(w, "This link was used already, or is not from this lab. Take the newest one from the terminal.", http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: int(sitting.Seconds())})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// admit lets the sitting's browser through.
func (o *Operators) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie(cookieName)
		o.mu.Lock()
		good := err == nil && o.cookie != "" && time.Now().Before(o.until) && subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(o.cookie)) == 1
		o.mu.Unlock()
		if !good {
			http.Error(w, "Enter by the link that the lab printed in its terminal.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
