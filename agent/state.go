// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"
)

// State is what an SD-Box is doing, as a person before it would say it.
type State uint8

// The states of an SD-Box.
const (
	Connecting State = iota // no line to the centre yet, or no more
	Closed                  // the gateway refused this box
	Ready                   // "Ready. Insert your card."
	Reading                 // a card is in and being read
	Finger                  // the centre knows the card; a finger is awaited
	Verifying               // the card compares, signs; the centre decides
	List                    // the person's projects
	Opening                 // a bubble was asked for; no pixel of it yet
	Desktop                 // a bubble's picture is shown
	Out                     // the card left a session: black
	Elsewhere               // the person's desktop is open on another box: bring it here?
	Stopped                 // a refusal or an ending is on the screen; the card must leave
	Lost                    // the line broke in a session; the card is still in
	Asking                  // shall her desktop in the selected bubble end?
	Resuming                // the line is back, the same session is asked for; no finger
	numStates
)

var stateNames = [numStates]string{"connecting", "closed", "ready", "reading", "finger", "verifying", "list", "opening", "desktop", "out", "elsewhere", "stopped", "lost", "asking", "resuming"}

// String returns the lower-case name.
func (s State) String() string { return stateNames[s] }

// Trigger is something that happened to the box.
type Trigger uint8

// The triggers.
const (
	LineUp      Trigger = iota // attested, tunnel and line are up
	LineLost                   // the line, or the way to it, failed
	BoxRefused                 // the gateway refused the box itself
	CardPresent                // pcscd reports a card
	CardGone                   // pcscd reports that it left
	CardRead                   // certificate and presence signature are there
	CardBad                    // the card cannot be read or is no PIV card
	Known                      // the gateway says whose card it is
	Placed                     // the sensor has a finger
	WrongFinger                // the card did not recognise it
	CardBlocked                // no tries left
	Signed                     // the card signed the login
	Granted                    // the gateway's list of bubbles
	Refusal                    // the gateway refused what was asked last
	InUse                      // the gateway asks whether the desktop shall come here
	Brought                    // the person says yes
	Picked                     // the person chose a bubble
	Shown                      // the first whole picture of that bubble is on the screen
	Back                       // the person wants her list
	Ended                      // the gateway ended the session
	Quiet                      // nobody came back to a black screen
	Silent                     // the centre answers no beat; the line still stands
	Heard                      // it answers again
	EndAsked                   // the person wants a desktop of hers to end
	Confirmed                  // she said so twice
	GaveUp                     // a lost line took longer than a session may wait without a finger
	numTriggers
)

var triggerNames = [numTriggers]string{
	"line up", "line lost", "box refused", "card present", "card gone", "card read", "card bad", "known", "finger placed", "wrong finger",
	"card blocked", "signed", "granted", "refused", "in use elsewhere", "brought", "picked", "shown", "back", "ended", "quiet", "silent", "heard", "end asked", "confirmed", "gave up",
}

// String returns the name in words.
func (t Trigger) String() string { return triggerNames[t] }

// effect names what the loop does when a row fires; agent.go holds one method per effect.
type effect uint8

const (
	nothing    effect = iota
	showBoot          // "Connecting to the centre...", with the reason if there is one
	showClosed        // the box stays closed, code B03
	showReady         // "Ready. Insert your card."
	readCard          // SELECT, certificate, presence signature
	sendCard          // CardIn to the gateway
	askFinger         // offer the stream, wait for a finger
	verify            // VERIFY and the login signature
	askAgain          // C03 with the tries left
	sendLogin         // Login to the gateway
	askToBring        // S06, with Enter for yes
	showList          // the projects
	attach            // wipe the picture, ask for the bubble
	showDesk          // frame, bar, picture
	backToList        // release keys, detach from the bubble, show the list
	refuseOpen        // the list again, with the reason
	leave             // black first, then release keys, detach, forget the person
	forget            // forget the person, say what comes next
	stop              // the refusal or the ending in words; forget the person
	cover             // what is shown stays, covered by "Connection lost"; nothing typed goes anywhere
	uncover           // the same again without the cover
	keepCard          // the same, and the card is held on to until the line is back
	resume            // ask for the session back
	offerAgain        // a new stream for it
	askEnd            // "End your desktop?", with Enter for yes
	endDesktop        // tell the gateway to
)

var effectNames = map[effect]string{
	nothing: "-", showBoot: "show boot", showClosed: "show closed", showReady: "show ready", readCard: "read card", sendCard: "present card",
	askFinger: "ask finger", verify: "verify, sign", askAgain: "ask again", sendLogin: "log in", askToBring: "ask to bring it", showList: "show list", attach: "wipe, attach",
	showDesk: "show desktop", backToList: "detach, show list", refuseOpen: "show list and reason", leave: "black, detach, forget",
	forget: "forget", stop: "say why, forget", cover: "cover picture", uncover: "show again", keepCard: "cover picture, hold the card",
	resume: "present card again", offerAgain: "set up a stream", askEnd: "ask whether to end it", endDesktop: "end it, show list",
}

// Row is one line of the box's state table: in From, when On happens, do the effect and be in To.
type Row struct {
	From State
	On   Trigger
	To   State
	do   effect
}

// Table returns the whole life of an SD-Box. A trigger without a row in a state changes nothing there: it came too late.
func Table() []Row {
	rows := []Row{
		{Connecting, LineUp, Ready, showReady},
		{Connecting, LineLost, Connecting, showBoot},
		{Connecting, BoxRefused, Closed, showClosed},
		{Closed, LineUp, Ready, showReady},
		{Closed, BoxRefused, Closed, showClosed},
		{Closed, LineLost, Connecting, showBoot},
		{Ready, CardPresent, Reading, readCard},
		{Ready, LineLost, Connecting, showBoot},
		{Reading, CardRead, Reading, sendCard},
		{Reading, Known, Finger, askFinger},
		{Finger, Placed, Verifying, verify},
		{Verifying, WrongFinger, Finger, askAgain},
		{Verifying, CardBlocked, Stopped, stop},
		{Verifying, Signed, Verifying, sendLogin},
		{Verifying, Granted, List, showList},
		{Verifying, InUse, Elsewhere, askToBring},
		{Elsewhere, Brought, Verifying, sendLogin},
		{List, Picked, Opening, attach},
		{List, Refusal, List, refuseOpen},
		{List, EndAsked, Asking, askEnd},
		{Asking, Confirmed, List, endDesktop},
		{Asking, Back, List, showList},
		{Asking, Refusal, List, refuseOpen},
		{Opening, Picked, Opening, attach},
		{Opening, Shown, Desktop, showDesk},
		{Opening, Refusal, List, refuseOpen},
		{Opening, Back, List, backToList},
		{Desktop, Picked, Opening, attach},
		{Desktop, Back, List, backToList},
		{Desktop, Refusal, List, refuseOpen},
		{Out, Quiet, Ready, showReady},
		{Out, CardPresent, Reading, readCard},
		{Out, LineLost, Connecting, showBoot},
		{Stopped, CardGone, Ready, showReady},
		{Stopped, LineLost, Connecting, showBoot},
		{Lost, LineUp, Resuming, resume},
		{Lost, CardGone, Connecting, leave},
		{Lost, GaveUp, Connecting, forget},
		{Lost, BoxRefused, Closed, showClosed},
		{Resuming, Granted, Resuming, offerAgain},
		{Resuming, Picked, Opening, attach},
		{Resuming, Back, List, showList},
		{Resuming, Refusal, Reading, readCard},
		{Resuming, GaveUp, Reading, readCard},
		{Resuming, CardBad, Stopped, stop},
		{Resuming, CardGone, Out, leave},
		{Resuming, Ended, Stopped, stop},
		{Resuming, LineLost, Lost, keepCard},
	}
	for _, s := range []State{Reading, Finger, Verifying, Elsewhere} { // a card is in, nothing is open yet
		rows = append(rows,
			Row{s, CardGone, Ready, forget},
			Row{s, CardBad, Stopped, stop},
			Row{s, Refusal, Stopped, stop},
			Row{s, Ended, Stopped, stop},
			Row{s, LineLost, Connecting, forget})
	}
	for _, s := range loggedIn() {
		rows = append(rows,
			Row{s, CardGone, Out, leave},
			Row{s, Ended, Stopped, stop},
			Row{s, Silent, s, cover},
			Row{s, Heard, s, uncover},
			Row{s, LineLost, Lost, keepCard})
	}
	return rows
}

// loggedIn are the states in which a person is, over a line that stands.
func loggedIn() []State { return []State{List, Opening, Desktop, Asking} }

// Picture draws the table as a mermaid state diagram, for README.md.
func Picture() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> connecting\n")
	for _, r := range Table() {
		fmt.Fprintf(&b, "    %s --> %s: %s / %s\n", r.From, r.To, r.On, effectNames[r.do])
	}
	return b.String()
}
