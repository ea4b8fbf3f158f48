// SPDX-License-Identifier: Apache-2.0

package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/refusal"
)

// words is everything the pages say, in one language.
type words struct {
	Skip, Pages, Gateway, Logged                                    string
	Sessions, SessionsLead, LiveOn, LiveLost, NoSessions, NoBubble  string
	Person, Box, Bubble, State, Delay, Since, Action, LocalTime     string
	Cut, CutLead, CutTitle, CutConfirm, CutConfirmNoBubble, CutDone string
	Message, Tell, TellLead, TellTitle, TellConfirm, TellDone       string
	TellHelp, TellMissing, TellCancel, Nobody                       string
	Reason, ReasonHelp, ReasonMissing, Cancel, Back                 string
	Boxes, BoxesLead, Country, Link, Until, NoBoxes                 string
	Attested, Away, Expected, Locked                                string
	NotFound, NotFoundText, Gone, Refused, Failed                   string
	Session, History, When, What, Detail, Who, WatchedBy            string
	SessionLead, SessionOver, LostSince, NoHistory                  string
	states, actions                                                 map[string]string
}

// happened says a row of the audit log in the page's language; one that has no words of ours by the name of its action.
func (w words) happened(l store.Leaf) string {
	if s := w.actions[l.Action+" "+l.Fields["reason"]]; s != "" {
		return s
	}
	if s := w.actions[l.Action]; s != "" {
		return s
	}
	return l.Action
}

// Watched says who looks at a session.
func (w words) Watched(by []string) string { return fmt.Sprintf(w.WatchedBy, strings.Join(by, ", ")) }

// StateName says a session's state in the page's language.
func (w words) StateName(state string) string {
	if s := w.states[state]; s != "" {
		return s
	}
	return state
}

func english() words {
	return words{
		Skip: "Skip to content", Pages: "Pages", Gateway: "Gateway",
		Logged:   "What you do here is written to the audit log with your name.",
		Sessions: "Live sessions", SessionsLead: "Who is working now, from which box, in which bubble.",
		LiveOn: "This page updates itself.", LiveLost: "The gateway does not answer: this page may be old. Trying again…",
		NoSessions: "Nobody is working at the moment.", NoBubble: "at the list of projects",
		Person: "Person", Box: "Box", Bubble: "Bubble", State: "State", Delay: "Delay", Since: "Since", Action: "Action", LocalTime: "local time",
		Cut: "End session…", CutTitle: "End the session of %s?",
		CutLead:    "The desktop leaves the screen at once and your reason stands there. The person's programs go on running in the bubble; nothing is lost.",
		CutConfirm: "End the session of %s in %s", CutConfirmNoBubble: "End the session of %s", CutDone: "The session of %s has ended.",
		Reason: "Reason", ReasonHelp: "The person reads these words on the screen. They are also written to the audit log. 3 to 200 characters.",
		ReasonMissing: "Write a reason of 3 to 200 characters, then confirm again.", Cancel: "Keep the session", Back: "Back to the live sessions",
		Message: "Message", Tell: "Message…", TellTitle: "Send a message to %s", TellConfirm: "Send to %s", TellDone: "%s has been sent the message.",
		TellLead:    "It appears over whatever is on the screen. The work is not interrupted.",
		TellHelp:    "It is also written to the audit log. 3 to 200 characters.",
		TellMissing: "Write a message of 3 to 200 characters, then send it again.", TellCancel: "Send nothing",
		Nobody: "Nobody is at the screen of this session now. Nothing was sent. Try again when the card is back.",
		Boxes:  "Boxes", BoxesLead: "A box may speak to the gateway only while its proof of state is fresh.", Country: "Country", Link: "Link",
		Until: "Proof valid until", NoBoxes: "No box is registered yet. Register one with: sdboxctl box add",
		Attested: "connected, proved intact", Away: "not connected", Expected: "registered, not seen yet", Locked: "locked",
		NotFound: "Not here", NotFoundText: "There is no such page. The session may have ended.",
		Gone: "This session has already ended. Nothing was done.", Refused: "This request did not come from this page. Nothing was done. Go back and try again.",
		Failed: "The gateway could not do this. Nothing was changed. Try again; if it fails again, look at the gateway's log.",
		states: map[string]string{"requested": "card in, waiting for the finger", "authorised": "logged in", "starting": "bubble is opening", "active": "working",
			"suspended": "card out, work goes on", "lost": "connection lost, waiting for the box", "ending": "ending", "ended": "ended"},
		Session: "Session", History: "What happened", When: "When", What: "What", Detail: "Detail", Who: "Operator", WatchedBy: "watched by %s",
		SessionLead: "While this page is open, the person reads at the box that the centre is watching, and the audit log says that you were.",
		SessionOver: "This session has ended. The page is no longer updated.", LostSince: "since", NoHistory: "Nothing yet.",
		actions: map[string]string{"session.create": "card in", "login.proved": "card and finger proved", "login.resumed": "the same card is still in the box",
			"session.take": "taken back by this gateway", "session.authorised": "at the list of projects", "session.authorised came back": "came back without a finger",
			"session.starting": "bubble is opening", "session.active": "bubble is on the screen", "session.suspended": "card out",
			"session.suspended line lost": "connection lost", "session.suspended gateway restarted": "gateway restarted", "session.ending": "is being ended",
			"session.ended": "ended", "session.refused": "refused", "session.listed": "refused on the list", "box.refused": "said by the box", "session.notice": "told to the person",
			"session.message": "message to the person", "session.watched": "watching began", "session.unwatched": "watching ended", "desktop.end": "desktop ended by the person"},
	}
}

func french() words {
	return words{
		Skip: "Aller au contenu", Pages: "Pages", Gateway: "Passerelle",
		Logged:   "Ce que vous faites ici est inscrit au journal d'audit, avec votre nom.",
		Sessions: "Sessions en cours", SessionsLead: "Qui travaille en ce moment, depuis quel boîtier, dans quelle bulle.",
		LiveOn: "Cette page se met à jour d'elle-même.", LiveLost: "La passerelle ne répond pas : cette page peut être ancienne. Nouvel essai…",
		NoSessions: "Personne ne travaille en ce moment.", NoBubble: "devant la liste des projets",
		Person: "Personne", Box: "Boîtier", Bubble: "Bulle", State: "État", Delay: "Délai", Since: "Depuis", Action: "Action", LocalTime: "heure locale",
		Cut: "Terminer…", CutTitle: "Terminer la session de %s ?",
		CutLead:    "Le bureau quitte l'écran aussitôt et votre motif s'y affiche. Les programmes de la personne continuent dans la bulle ; rien n'est perdu.",
		CutConfirm: "Terminer la session de %s dans %s", CutConfirmNoBubble: "Terminer la session de %s", CutDone: "La session de %s est terminée.",
		Reason: "Motif", ReasonHelp: "La personne lit ces mots à l'écran. Ils sont aussi inscrits au journal d'audit. De 3 à 200 caractères.",
		ReasonMissing: "Écrivez un motif de 3 à 200 caractères, puis confirmez à nouveau.", Cancel: "Garder la session", Back: "Retour aux sessions en cours",
		Message: "Message", Tell: "Message…", TellTitle: "Envoyer un message à %s", TellConfirm: "Envoyer à %s", TellDone: "Le message a été envoyé à %s.",
		TellLead:    "Il apparaît par-dessus ce qui est à l'écran. Le travail n'est pas interrompu.",
		TellHelp:    "Il est aussi inscrit au journal d'audit. De 3 à 200 caractères.",
		TellMissing: "Écrivez un message de 3 à 200 caractères, puis envoyez-le à nouveau.", TellCancel: "Ne rien envoyer",
		Nobody: "Personne n'est devant l'écran de cette session. Rien n'a été envoyé. Recommencez quand la carte sera revenue.",
		Boxes:  "Boîtiers", BoxesLead: "Un boîtier ne parle à la passerelle que tant que la preuve de son état est récente.", Country: "Pays", Link: "Liaison",
		Until: "Preuve valable jusqu'à", NoBoxes: "Aucun boîtier n'est enregistré. Enregistrez-en un avec : sdboxctl box add",
		Attested: "connecté, intégrité prouvée", Away: "non connecté", Expected: "enregistré, pas encore vu", Locked: "bloqué",
		NotFound: "Rien ici", NotFoundText: "Cette page n'existe pas. La session est peut-être terminée.",
		Gone: "Cette session est déjà terminée. Rien n'a été fait.", Refused: "Cette demande ne vient pas de cette page. Rien n'a été fait. Revenez en arrière et recommencez.",
		Failed: "La passerelle n'a pas pu le faire. Rien n'a changé. Recommencez ; si l'échec se répète, consultez le journal de la passerelle.",
		states: map[string]string{"requested": "carte insérée, doigt attendu", "authorised": "connecté", "starting": "ouverture de la bulle", "active": "au travail",
			"suspended": "carte retirée, le travail continue", "lost": "connexion perdue, boîtier attendu", "ending": "fin en cours", "ended": "terminée"},
		Session: "Session", History: "Ce qui s'est passé", When: "Quand", What: "Quoi", Detail: "Détail", Who: "Opérateur", WatchedBy: "observée par %s",
		SessionLead: "Tant que cette page est ouverte, la personne lit sur le boîtier que le centre l'observe, et le journal d'audit en garde la trace.",
		SessionOver: "Cette session est terminée. La page n'est plus mise à jour.", LostSince: "depuis", NoHistory: "Rien encore.",
		actions: map[string]string{"session.create": "carte insérée", "login.proved": "carte et doigt vérifiés", "login.resumed": "la même carte est toujours dans le boîtier",
			"session.take": "reprise par cette passerelle", "session.authorised": "devant la liste des projets", "session.authorised came back": "revenue sans doigt",
			"session.starting": "ouverture de la bulle", "session.active": "bulle à l'écran", "session.suspended": "carte retirée",
			"session.suspended line lost": "connexion perdue", "session.suspended gateway restarted": "passerelle redémarrée", "session.ending": "fin en cours",
			"session.ended": "terminée", "session.refused": "refus", "session.listed": "refus dans la liste", "box.refused": "dit par le boîtier", "session.notice": "dit à la personne",
			"session.message": "message à la personne", "session.watched": "observation commencée", "session.unwatched": "observation terminée", "desktop.end": "bureau fermé par la personne"},
	}
}

// language picks French or English from an Accept-Language header (RFC 9110, 12.5.4); English when it names neither.
func language(header string) refusal.Lang {
	best, weight := refusal.English, 0.0
	for i, part := range strings.Split(header, ",") {
		if i == 16 {
			break
		}
		tag, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		q := 1.0
		if v, found := strings.CutPrefix(strings.TrimSpace(params), "q="); found {
			if parsed, err := strconv.ParseFloat(v, 64); err == nil {
				q = parsed
			}
		}
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		lang := refusal.Lang(primary)
		if (lang == refusal.French || lang == refusal.English) && q > weight {
			best, weight = lang, q
		}
	}
	return best
}

func wordsFor(lang refusal.Lang) words {
	if lang == refusal.French {
		return french()
	}
	return english()
}

// Moment is a time in UTC: of the day, and which day when it is not today. The page's script writes the local time below.
func (w words) Moment(t time.Time) string {
	if now := time.Now().UTC(); t.UTC().Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.UTC().Format("15:04:05 UTC")
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func (w words) cutConfirm(person, bubble string) string {
	if bubble == "" {
		return fmt.Sprintf(w.CutConfirmNoBubble, person)
	}
	return fmt.Sprintf(w.CutConfirm, person, bubble)
}
