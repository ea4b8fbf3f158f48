// SPDX-License-Identifier: Apache-2.0

package boot

// States of the network in which there is nothing to tell a person yet.
const (
	Starting NetworkState = "starting" // a link takes seconds to come up
	Asking   NetworkState = "asking"   // there is a cable, and somebody may answer
)

// netTrigger is what happens to a network.
type netTrigger string

// What may happen.
const (
	noAdapter   netTrigger = "no adapter" // none was found for a while
	adapterIn   netTrigger = "adapter in"
	cableIn     netTrigger = "cable in"
	cableOut    netTrigger = "cable out"
	addressed   netTrigger = "addressed" // there is an address, a new one perhaps
	unaddressed netTrigger = "unaddressed"
	waited      netTrigger = "waited" // patience has run out
)

// netEffect is what a row does besides saying its new state.
type netEffect uint8

const (
	onlySay netEffect = iota
	ask               // begin to ask for an address
	wait              // be patient again
	rest              // nobody asks any more; what was got stays until its life ends
)

// netRow is one step of the network.
type netRow struct {
	from NetworkState
	on   netTrigger
	to   NetworkState
	do   netEffect
}

// networkTable is the whole of it. What is not in it changes nothing.
func networkTable() []netRow {
	return []netRow{
		{Starting, cableIn, Asking, ask},
		{Starting, waited, NoCable, onlySay},
		{Starting, noAdapter, NoAdapter, onlySay},
		{NoAdapter, adapterIn, NoCable, onlySay},
		{NoCable, cableIn, Asking, ask},
		{Asking, addressed, Up, onlySay},
		{Asking, waited, NoAddress, onlySay},
		{Asking, cableOut, NoCable, rest},
		{NoAddress, addressed, Up, onlySay},
		{NoAddress, cableOut, NoCable, rest},
		{Up, addressed, Up, onlySay},
		{Up, unaddressed, Asking, wait},
		{Up, cableOut, NoCable, rest},
	}
}
