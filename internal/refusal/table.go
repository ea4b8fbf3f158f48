// SPDX-License-Identifier: Apache-2.0

package refusal

// The codes. Each row of the table below says what it means to a person.
const (
	Ready          Code = "A00" // no card in the reader
	NoChip         Code = "B01" // the TPM is absent or does not answer
	NotIntact      Code = "B03" // params: none
	Updating       Code = "B06" // params: rest, the seconds it may still take
	NotUpdated     Code = "B07" // a release did not come onto this box, which goes on as it was
	CardUnreadable Code = "C01"
	CardForeign    Code = "C02"
	WrongFinger    Code = "C03" // params: left, the tries the card still grants
	CardLocked     Code = "C05"
	ReaderLost     Code = "C07"
	ReaderUnknown  Code = "C08" // plugged in, and no reader that the box's driver knows
	CardEnded      Code = "C11" // params: date
	CardRevoked    Code = "C12" // params: date
	CentreSilent   Code = "G01" // params: try, ways
	LinkLost       Code = "G03"
	OurFault       Code = "G09" // something of ours failed; the reason is in the log
	TypedTooFast   Code = "K01" // a keyboard types as no person does
	DeviceRefused  Code = "K04" // something on USB that is no keyboard, mouse or card reader
	NoCable        Code = "N01"
	NoAddress      Code = "N02"
	NoAdapter      Code = "N03" // the box finds no network hardware of its own
	SignIn         Code = "N04" // the network wants a web page filled in first
	NoName         Code = "N05" // the network's resolver does not know the centre, or does not answer
	Impostor       Code = "N06" // somebody answers for the centre with another certificate
	SlowMode       Code = "N08"
	ProjectEnded   Code = "P02" // params: project, date
	NotFromHere    Code = "P05" // params: project, countries (ISO 3166-1 alpha-2 with commas between), here (one of them)
	ProjectEnding  Code = "P06" // said while a person works in it; params: project, minutes
	CutByOperator  Code = "S04" // params: at (Moment), reason
	OpenElsewhere  Code = "S06" // asks on the box where the card is now; params: box, the other one
	Moved          Code = "S07" // said on the box the desktop was taken from; params: box, where it went
	BubbleStarting Code = "U01" // params: bubble, seconds
	BubbleDown     Code = "U02" // params: bubble, since (Moment)
)

// Light is the colour a screen, and the lamp of a box that has one, shows. The screens always write its name too.
type Light string

// The lights.
const (
	White Light = "white" // ready
	Blue  Light = "blue"  // the box is working: wait
	Amber Light = "amber" // the person or the local IT team can act
	Red   Light = "red"   // it cannot go on
)

// Fixer says who can end a refusal.
type Fixer string

// Those who can.
const (
	Person  Fixer = "person"  // whoever sits at the box
	IT      Fixer = "it"      // the IT team of the place where the box stands
	Support Fixer = "support" // the centre's support desk
	Centre  Fixer = "centre"  // the centre's own machines, by themselves or their operators: nothing to do at the box
)

// Text is one language's template of the words for a row. {name} is a parameter, {name:day} one written as 2026-03-12,
// {name:clock} a Moment, {name:countries} as FR,BE, {name:span} a number of seconds; {name:n:try:tries} is the word form for that count. {code} is code
// and suffix. [a|b] is the first of its parts whose parameters are all known, else nothing.
type Text struct{ Title, Text, Next string }

// Row is one line of the failure contract.
type Row struct {
	Code   Code
	Light  Light
	Fix    Fixer
	EN, FR Text
}

// Lookup returns the row of a code.
func Lookup(code Code) (Row, bool) {
	for _, r := range Table() {
		if r.Code == code {
			return r, true
		}
	}
	return Row{}, false
}

// Table returns all rows, by code.
func Table() []Row {
	return []Row{
		{Ready, White, Person,
			Text{"Ready.", "", "Insert your card."},
			Text{"Prêt.", "", "Insérez votre carte."}},
		{NoChip, Red, Support,
			Text{"The security chip of this box does not answer.", "", "Switch the box off and on again. If it says so again, call support, code {code}."},
			Text{"La puce de sécurité de ce boîtier ne répond pas.", "", "Éteignez le boîtier puis rallumez-le. Si le message revient, appelez le support, code {code}."}},
		{NotIntact, Red, Support,
			Text{"This box cannot prove it is intact, so it stays closed.", "", "Do not open it. Call support, code {code}."},
			Text{"Ce boîtier ne peut pas prouver qu'il est intact : il reste fermé.", "", "Ne l'ouvrez pas. Appelez le support, code {code}."}},
		{Updating, Blue, Centre,
			Text{"Updating[ ({rest:span})]...", "", "Leave the box switched on. It starts again by itself."},
			Text{"Mise à jour[ ({rest:span})]...", "", "Laissez le boîtier allumé. Il redémarre de lui-même."}},
		{NotUpdated, Amber, Centre,
			Text{"This box could not be updated. It goes on as it was.", "", "You can work. If you are asked, it was code {code}."},
			Text{"Ce boîtier n'a pas pu être mis à jour. Il continue comme avant.", "", "Vous pouvez travailler. Si on vous le demande, c'était le code {code}."}},
		{CardUnreadable, Amber, Person,
			Text{"I cannot read this card.", "", "Turn it over or try again."},
			Text{"Carte illisible.", "", "Retournez-la ou réessayez."}},
		{CardForeign, Amber, Person,
			Text{"This card is not from this centre.", "", "Use your own card."},
			Text{"Cette carte n'est pas de ce centre.", "", "Utilisez la vôtre."}},
		{WrongFinger, Amber, Person,
			Text{"This finger was not recognised.", "[{left} {left:n:try:tries} left.]", "Try again, or press 2 for the other enrolled finger."},
			Text{"Doigt non reconnu.", "[Encore {left} {left:n:essai:essais}.]", "Réessayez, ou appuyez sur 2 pour l'autre doigt."}},
		{CardLocked, Red, Support,
			Text{"Your card is locked for your safety.", "", "Call support, code {code}. They can unlock it from a distance."},
			Text{"Carte verrouillée pour votre sécurité.", "", "Appelez le support, code {code}. Il peut la déverrouiller à distance."}},
		{ReaderLost, Amber, Person,
			Text{"There is no card reader, or it does not answer.", "", "Plug the reader in, or pull it out and plug it in again. If it stays silent, call support, code {code}."},
			Text{"Il n'y a pas de lecteur de carte, ou il ne répond pas.", "", "Branchez le lecteur, ou débranchez-le puis rebranchez-le. S'il reste muet, appelez le support, code {code}."}},
		{ReaderUnknown, Amber, IT,
			Text{"This box does not know the card reader that was plugged in.", "", "Plug in the reader that came with the box, or show code {code} to your IT team."},
			Text{"Ce boîtier ne connaît pas le lecteur de carte qui vient d'être branché.", "", "Branchez le lecteur fourni avec le boîtier, ou montrez le code {code} à votre équipe informatique."}},
		{CardEnded, Red, Support,
			Text{"Your card ended[ on {date:day}].", "", "Contact support, code {code}, for a new one."},
			Text{"Votre carte a expiré[ le {date:day}].", "", "Contactez le support, code {code}, pour en obtenir une nouvelle."}},
		{CardRevoked, Red, Support,
			Text{"This card has been cancelled[ on {date:day}].", "It no longer opens anything.", "Contact support, code {code}."},
			Text{"Carte annulée[ le {date:day}].", "Elle n'ouvre plus rien.", "Contactez le support, code {code}."}},
		{CentreSilent, Amber, IT,
			Text{"The centre does not answer.", "[Trying another way ({try} of {ways})...]", "Please wait: the box keeps trying. If it lasts, call your IT team, code {code}."},
			Text{"Le centre ne répond pas.", "[Autre chemin ({try} sur {ways})...]", "Patientez : le boîtier continue d'essayer. Si cela dure, appelez votre équipe informatique, code {code}."}},
		{LinkLost, Blue, Centre,
			Text{"Connection lost.", "Your work goes on.", "Reconnecting..."},
			Text{"Connexion perdue.", "Votre travail continue.", "Reconnexion..."}},
		{OurFault, Red, Support,
			Text{"Something of ours failed. It is not your fault.", "", "Take your card out and try again. If it happens again, call support, code {code}."},
			Text{"Une panne de notre côté. Vous n'y êtes pour rien.", "", "Retirez votre carte et réessayez. Si cela se répète, appelez le support, code {code}."}},
		{TypedTooFast, Amber, Person,
			Text{"A keyboard types faster than a person can, so it is not listened to.", "", "Unplug it and plug in your own keyboard. If it was yours, call support, code {code}."},
			Text{"Un clavier tape plus vite qu'une personne : il n'est pas écouté.", "", "Débranchez-le et branchez votre clavier. Si c'était le vôtre, appelez le support, code {code}."}},
		{DeviceRefused, Amber, Person,
			Text{"A USB device that this box does not take was plugged in.", "Nothing was read from it.", "Unplug it. Only a keyboard, a mouse and a card reader work here."},
			Text{"Un appareil USB que ce boîtier n'accepte pas a été branché.", "Rien n'y a été lu.", "Débranchez-le. Seuls un clavier, une souris et un lecteur de carte fonctionnent ici."}},
		{NoCable, Red, Person,
			Text{"No network cable.", "", "Plug it in at the box and at the wall: the box goes on by itself. If it stays so, show code {code} to your IT team."},
			Text{"Pas de câble réseau.", "", "Branchez-le au boîtier et au mur : le boîtier continue de lui-même. Si rien ne change, montrez le code {code} à votre équipe informatique."}},
		{NoAddress, Red, IT,
			Text{"The network gives no address.", "", "Please wait: the box keeps asking. If it lasts, show code {code} to your IT team."},
			Text{"Le réseau ne donne pas d'adresse.", "", "Patientez : le boîtier continue de demander. Si cela dure, montrez le code {code} à votre équipe informatique."}},
		{NoAdapter, Red, Support,
			Text{"This box finds no network adapter of its own.", "", "Switch the box off and on again. If it says so again, call support, code {code}."},
			Text{"Ce boîtier ne trouve pas sa carte réseau.", "", "Éteignez le boîtier puis rallumez-le. Si le message revient, appelez le support, code {code}."}},
		{SignIn, Amber, IT,
			Text{"This network asks for a sign-in page.", "The box cannot use it.", "Show code {code} to your IT team."},
			Text{"Ce réseau demande une page de connexion.", "Le boîtier ne peut pas l'utiliser.", "Montrez le code {code} à votre équipe informatique."}},
		{NoName, Amber, IT,
			Text{"This network does not know the name of the centre.", "", "Please wait: the box keeps asking. If it lasts, show code {code} to your IT team."},
			Text{"Ce réseau ne connaît pas le nom du centre.", "", "Patientez : le boîtier continue de demander. Si cela dure, montrez le code {code} à votre équipe informatique."}},
		{Impostor, Red, IT,
			Text{"Someone on this network answers in place of the centre.", "", "Do not go on here. Show code {code} to your IT team."},
			Text{"Le réseau répond à la place du centre.", "", "N'allez pas plus loin ici. Montrez le code {code} à votre équipe informatique."}},
		{SlowMode, Amber, IT,
			Text{"Connected in slow mode (UDP is blocked here).", "", "You can work. Ask your IT team to open UDP port 443."},
			Text{"Connecté en mode lent (UDP bloqué ici).", "", "Vous pouvez travailler. Demandez à votre équipe informatique d'ouvrir le port UDP 443."}},
		{ProjectEnded, Amber, Person,
			Text{"[Project {project}|This project] ended[ on {date:day}].", "Your other projects are open.", "Ask for an extension in the portal."},
			Text{"[Projet {project}|Ce projet est] terminé[ le {date:day}].", "Vos autres projets sont ouverts.", "Demandez une prolongation sur le portail."}},
		{NotFromHere, Amber, Person,
			Text{"[Project {project}|This project] can only be opened from [{countries:countries}|another place].", "[This box is registered in {here:countries}.]", "Use a box there, or open another project."},
			Text{"[Projet {project}|Ce projet] : uniquement depuis [{countries:countries}|un autre lieu].", "[Pays d'enregistrement de ce boîtier : {here:countries}.]", "Utilisez un boîtier sur place, ou ouvrez un autre projet."}},
		{ProjectEnding, Amber, Person,
			Text{"[Project {project}|This project] ends for you[ in {minutes} {minutes:n:minute:minutes}].", "", "Save your work now. Your other projects stay open."},
			Text{"[Projet {project}|Ce projet] : votre accès se termine[ dans {minutes} {minutes:n:minute:minutes}].", "", "Enregistrez votre travail. Vos autres projets restent ouverts."}},
		{CutByOperator, Red, Support,
			Text{"A supervisor ended this session[ at {at:clock}].", "[Reason: {reason}]", "Take your card out. If you have a question, call support, code {code}."},
			Text{"Un superviseur a terminé cette session[ à {at:clock}].", "[Motif : {reason}]", "Retirez votre carte. Pour toute question, appelez le support, code {code}."}},
		{OpenElsewhere, Amber, Person,
			Text{"Your desktop is open on [box {box}|another box].", "Bring it here?", "Press Enter to bring it here, or take your card out to leave it there."},
			Text{"Bureau ouvert sur [le boîtier {box}|un autre boîtier].", "L'amener ici ?", "Appuyez sur Entrée pour l'amener ici, ou retirez votre carte pour le laisser là-bas."}},
		{Moved, Amber, Support,
			Text{"Your desktop was brought to [box {box}|another box].", "Your work goes on there.", "If that was not you, call support, code {code}."},
			Text{"Votre bureau a été amené sur [le boîtier {box}|un autre boîtier].", "Votre travail y continue.", "Si ce n'était pas vous, appelez le support, code {code}."}},
		{BubbleStarting, Amber, Centre,
			Text{"[Bubble {bubble}|This bubble] is starting[ (about {seconds} s)].", "", "Please wait: it opens by itself."},
			Text{"[La bulle {bubble}|Cette bulle] démarre[ (environ {seconds} s)].", "", "Patientez : elle s'ouvre d'elle-même."}},
		{BubbleDown, Amber, Centre,
			Text{"[Bubble {bubble}|This bubble] is being repaired[ since {since:clock}].", "", "Your work in it is kept. Open another project, or come back later."},
			Text{"[La bulle {bubble}|Cette bulle] est en réparation[ depuis {since:clock}].", "", "Votre travail y est conservé. Ouvrez un autre projet ou revenez plus tard."}},
	}
}
