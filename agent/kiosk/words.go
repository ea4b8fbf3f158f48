// SPDX-License-Identifier: Apache-2.0

package kiosk

import "sdbox/internal/refusal"

// words are the fixed texts of the screens in one language; what a refusal says stands in package refusal.
type words struct {
	box, support, code                                  string
	connecting, connectingMore                          string
	ready, insert, readyMore                            string
	reading, readingMore                                string
	finger, fingerMore, fingerSecond                    string
	verifying, verifyingMore                            string
	hello, projects, noProjects, pick                   string
	open, asleep, refuses, noEnd, until, anywhere, from string
	above, below                                        string
	opening, openingMore                                string
	larger, message, read                               string
	endAsk, endMore, endYes, endNo                      string
	goesOn, comeBack                                    string
	next, reason, ended                                 string
	white, blue, amber, red                             string
	delay, good, fair, poor, noDelay, slowMode          string
	watched                                             string
}

// wordsIn returns the words of a language; any other than French is English.
func wordsIn(lang refusal.Lang) words {
	if lang == refusal.French {
		return words{
			box: "Boîtier", support: "Support", code: "Code",
			connecting: "Connexion au centre...", connectingMore: "Le boîtier prouve son intégrité et ouvre son tunnel.",
			ready: "Prêt.", insert: "Insérez votre carte.", readyMore: "Puce en avant, et laissez-la pendant votre travail.",
			reading: "Lecture de votre carte...", readingMore: "Laissez la carte en place.",
			finger: "Posez votre doigt.", fingerMore: "Sur le capteur, à plat, jusqu'au changement d'écran.",
			fingerSecond: "Votre second doigt, à plat sur le capteur. Appuyez sur 1 pour le premier.",
			verifying:    "Vérification...", verifyingMore: "Votre carte et le centre vous reconnaissent.",
			hello: "Bonjour", projects: "Vos projets", noProjects: "Aucun projet ne vous est ouvert. Appelez le support.",
			pick: "Choisissez avec les flèches puis Entrée, un chiffre ou la souris. Suppr ferme votre bureau.",
			open: "Ouvert : votre bureau tourne", asleep: "En veille : démarre à l'ouverture", refuses: "Non disponible",
			noEnd: "sans date de fin", until: "jusqu'au ", anywhere: "accessible de partout", from: "depuis ",
			above: "plus haut", below: "plus bas",
			opening: "Ouverture de votre bureau...", openingMore: "Il apparaît dès que le centre l'envoie.",
			larger: "F2 : texte plus grand", message: "Message du centre", read: "Ctrl+Alt+Bas : lu",
			endAsk: "Fermer votre bureau dans ce projet ?", endMore: "Tous ses programmes s'arrêtent. Ce qui n'est pas enregistré est perdu.",
			endYes: "fermer le bureau", endNo: "le garder",
			goesOn: "Votre travail continue.", comeBack: "Insérez votre carte pour revenir.",
			next: "Que faire", reason: "Motif", ended: "Session terminée",
			white: "Blanc : prêt", blue: "Bleu : patientez", amber: "Orange : vous pouvez agir", red: "Rouge : arrêt",
			delay: "Délai", good: "bon", fair: "moyen", poor: "lent", noDelay: "mesure...", slowMode: "mode lent",
			watched: "Observé par le centre",
		}
	}
	return words{
		box: "Box", support: "Support", code: "Code",
		connecting: "Connecting to the centre...", connectingMore: "The box proves that it is intact and opens its tunnel.",
		ready: "Ready.", insert: "Insert your card.", readyMore: "Chip first, and leave it in while you work.",
		reading: "Reading your card...", readingMore: "Leave the card in.",
		finger: "Place your finger.", fingerMore: "Flat on the sensor, until this screen changes.",
		fingerSecond: "Your second finger, flat on the sensor. Press 1 for the first.",
		verifying:    "Checking...", verifyingMore: "Your card and the centre recognise you.",
		hello: "Hello", projects: "Your projects", noProjects: "No project is open to you. Call support.",
		pick: "Choose with the arrow keys and Enter, a digit or the mouse. Delete ends your desktop.",
		open: "Open: your desktop is running", asleep: "Asleep: starts when you open it", refuses: "Not available",
		noEnd: "no end date", until: "until ", anywhere: "from anywhere", from: "from ",
		above: "more above", below: "more below",
		opening: "Opening your desktop...", openingMore: "It appears as soon as the centre sends it.",
		larger: "F2: larger text", message: "Message from the centre", read: "Ctrl+Alt+Down: read",
		endAsk: "End your desktop in this project?", endMore: "All its programs stop. What is not saved is lost.",
		endYes: "end the desktop", endNo: "keep it",
		goesOn: "Your work goes on.", comeBack: "Insert your card to come back.",
		next: "What to do", reason: "Reason", ended: "Session ended",
		white: "White: ready", blue: "Blue: please wait", amber: "Amber: you can act", red: "Red: stopped",
		delay: "Delay", good: "good", fair: "fair", poor: "slow", noDelay: "measuring...", slowMode: "slow mode",
		watched: "Watched by the centre",
	}
}
