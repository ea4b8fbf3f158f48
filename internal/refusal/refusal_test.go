// SPDX-License-Identifier: Apache-2.0

package refusal

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// examples are parameters for every row that takes some.
var examples = map[string]string{
	"left": "2", "date": "2026-03-12", "project": "Santé", "countries": "FR", "here": "NL", "at": today(14, 2), "since": today(10, 12),
	"reason": "Screen was photographed", "box": "PARIS-0042", "bubble": "epi", "seconds": "20", "minutes": "15", "try": "2", "ways": "4", "rest": "130",
}

// today is a Moment at this time of day where the tests run.
func today(hour, minute int) string {
	return Moment(time.Date(2026, 11, 24, hour, minute, 0, 0, time.Local))
}

func TestEveryCodeHasWordsInBothLanguages(t *testing.T) {
	code := regexp.MustCompile(`^[ABCGKNPSU][0-9]{2}$`)
	seen := map[Code]bool{}
	for _, row := range Table() {
		require.Regexp(t, code, string(row.Code))
		require.False(t, seen[row.Code], "%s stands twice", row.Code)
		seen[row.Code] = true
		require.Contains(t, []Light{White, Blue, Amber, Red}, row.Light, row.Code)
		require.Contains(t, []Fixer{Person, IT, Support, Centre}, row.Fix, row.Code)
		require.NotEqual(t, row.EN, row.FR, row.Code)
		for _, lang := range []Lang{French, English} {
			for _, params := range []map[string]string{examples, nil} {
				w := Refusal{row.Code, "7K2", params}.Words(lang)
				require.NotEmpty(t, w.Title, "%s %s", row.Code, lang)
				require.NotEmpty(t, w.Next, "%s %s", row.Code, lang)
				require.NotRegexp(t, `[{}\[\]|]|  | \.`, w.Title+w.Text+w.Next, "%s %s", row.Code, lang)
				require.Regexp(t, `^\p{Lu}.*[.…]$`, w.Title, "%s %s", row.Code, lang)
			}
		}
	}
}

func TestRedAndSupportRowsSayTheCodeToRead(t *testing.T) {
	for _, row := range Table() {
		if row.Fix == Support {
			require.Contains(t, row.EN.Next, "{code}", row.Code)
			require.Contains(t, row.FR.Next, "{code}", row.Code)
		}
	}
}

func TestEveryParameterOfATemplateIsKnown(t *testing.T) {
	param := regexp.MustCompile(`\{([a-z]+)(:[^}]*)?\}`)
	used := map[string]bool{}
	for _, row := range Table() {
		en := param.FindAllStringSubmatch(row.EN.Title+row.EN.Text+row.EN.Next, -1)
		fr := param.FindAllStringSubmatch(row.FR.Title+row.FR.Text+row.FR.Next, -1)
		names := map[string]int{}
		for _, m := range en {
			names[m[1]] |= 1
		}
		for _, m := range fr {
			names[m[1]] |= 2
		}
		for name, where := range names {
			require.Equal(t, 3, where, "%s: {%s} is missing in one language", row.Code, name)
			require.True(t, name == "code" || examples[name] != "", "%s: {%s}", row.Code, name)
			used[name] = true
		}
	}
	for name := range examples {
		require.True(t, used[name], "no row takes {%s}", name)
	}
}

func TestWordsAreThoseOfTheFailureContract(t *testing.T) {
	for _, c := range []struct {
		code   Code
		en, fr string
	}{
		{Ready, "Ready. Insert your card.", "Prêt. Insérez votre carte."},
		{CardUnreadable, "I cannot read this card. Turn it over or try again.", "Carte illisible. Retournez-la ou réessayez."},
		{WrongFinger, "This finger was not recognised. 2 tries left. Try again, or press 2 for the other enrolled finger.", "Doigt non reconnu. Encore 2 essais. Réessayez, ou appuyez sur 2 pour l'autre doigt."},
		{CardLocked, "Your card is locked for your safety. Call support, code C05-7K2. They can unlock it from a distance.", "Carte verrouillée pour votre sécurité. Appelez le support, code C05-7K2. Il peut la déverrouiller à distance."},
		{CardForeign, "This card is not from this centre. Use your own card.", "Cette carte n'est pas de ce centre. Utilisez la vôtre."},
		{NotIntact, "This box cannot prove it is intact, so it stays closed. Do not open it. Call support, code B03-7K2.", "Ce boîtier ne peut pas prouver qu'il est intact : il reste fermé. Ne l'ouvrez pas. Appelez le support, code B03-7K2."},
		{LinkLost, "Connection lost. Your work goes on. Reconnecting...", "Connexion perdue. Votre travail continue. Reconnexion..."},
		{ProjectEnded, "Project Santé ended on 12 March 2026. Your other projects are open. Ask for an extension in the portal.", "Projet Santé terminé le 12 mars 2026. Vos autres projets sont ouverts. Demandez une prolongation sur le portail."},
		{Updating, "Updating (2 min 10 s)... Leave the box switched on. It starts again by itself.", "Mise à jour (2 min 10 s)... Laissez le boîtier allumé. Il redémarre de lui-même."},
		{NoCable, "No network cable. Plug it in at the box and at the wall: the box goes on by itself. If it stays so, show code N01-7K2 to your IT team.", "Pas de câble réseau. Branchez-le au boîtier et au mur : le boîtier continue de lui-même. Si rien ne change, montrez le code N01-7K2 à votre équipe informatique."},
		{Impostor, "Someone on this network answers in place of the centre. Do not go on here. Show code N06-7K2 to your IT team.", "Le réseau répond à la place du centre. N'allez pas plus loin ici. Montrez le code N06-7K2 à votre équipe informatique."},
	} {
		r := Refusal{c.code, "7K2", examples}
		require.Equal(t, c.en, r.Words(English).String())
		require.Equal(t, c.fr, r.Words(French).String())
	}
	require.Equal(t, "Un superviseur a terminé cette session à 14 h 02.", Refusal{CutByOperator, "", examples}.Words(French).Title)
	require.Equal(t, "La bulle epi est en réparation depuis 10 h 12.", Refusal{BubbleDown, "", examples}.Words(French).Title)
	require.Equal(t, "Project Santé can only be opened from France.", Refusal{NotFromHere, "", examples}.Words(English).Title)
	require.Equal(t, "Projet Santé : uniquement depuis la France.", Refusal{NotFromHere, "", examples}.Words(French).Title)
}

func TestSpansAreMinutesAndSeconds(t *testing.T) {
	for value, want := range map[string]string{"0": "0 s", "59": "59 s", "60": "1 min", "61": "1 min 1 s", "600": "10 min", "-1": "-1", "soon": "soon"} {
		require.Equal(t, "Updating ("+want+")...", Refusal{Updating, "", map[string]string{"rest": value}}.Words(English).Title)
	}
	require.Equal(t, "Updating...", New(Updating).Words(English).Title)
}

func TestCountsTakeTheirWordForm(t *testing.T) {
	one := Refusal{WrongFinger, "", map[string]string{"left": "1"}}
	require.Equal(t, "1 try left.", one.Words(English).Text)
	require.Equal(t, "Encore 1 essai.", one.Words(French).Text)
}

func TestHostileParametersStayOneShortLine(t *testing.T) {
	r := Refusal{CutByOperator, "7K2", map[string]string{"reason": "{code}[x]\n\x1b[2J\u202e" + strings.Repeat("é", 5000), "at": "{reason}"}}
	w := r.Words(English)
	require.NotContains(t, w.Text, "\n")
	require.NotContains(t, w.Text, "\x1b")
	require.NotContains(t, w.Text, "\u202e")
	require.Contains(t, w.Text, "{code}[x]", "a value is not a template")
	require.LessOrEqual(t, len([]rune(w.Text)), maxParam+20)
}

func TestUnknownCodeReadsAsOurFaultUnderItsOwnNumber(t *testing.T) {
	w := Refusal{"Z99", "7K2", nil}.Words(English)
	require.Equal(t, Red, w.Light)
	require.Contains(t, w.Next, "Z99-7K2")
}

func TestSuffixHasThreeReadableCharacters(t *testing.T) {
	for range 200 {
		r := New(WrongFinger, "left", "2")
		require.Regexp(t, `^[2346789CDFHJKMNPRTVWXY]{3}$`, r.Suffix)
		require.Equal(t, "C03-"+r.Suffix, r.Error())
		require.Equal(t, "2", r.Params["left"])
	}
}

func TestDaysAndPlacesAreWrittenInWords(t *testing.T) {
	at := time.Date(2026, 8, 1, 9, 5, 0, 0, time.UTC)
	require.Equal(t, "1er août 2026", Day(French, at))
	require.Equal(t, "1 August 2026", Day(English, at))
	require.Equal(t, "09 h 05", Clock(French, at))
	require.Equal(t, "la France, la Belgique ou XX", Countries(French, []string{"FR", "BE", "XX"}))
	require.Equal(t, "France", Countries(English, []string{"FR"}))
}
