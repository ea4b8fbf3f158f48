// SPDX-License-Identifier: Apache-2.0

package main

type cli struct {
	Build     buildCmd     `cmd:"" help:"Make the image of a site: the signed program, the disk, what the TPM will say."`
	Lock      lockCmd      `cmd:"" help:"Ask apt for the newest versions of the image's packages, and write them as a lock."`
	Fetch     fetchCmd     `cmd:"" help:"Fetch the packages of a lock, and print their files."`
	Keys      keysCmd      `cmd:"" help:"Make the Secure Boot keys of a site."`
	Sign      signCmd      `cmd:"" help:"Sign an image anew."`
	Inspect   inspectCmd   `cmd:"" help:"Print what is in an image: sections, command line, modules, programs, signer, trust anchors."`
	Predict   predictCmd   `cmd:"" help:"Print what a machine's TPM will say once it has booted an image."`
	Reference referenceCmd `cmd:"" help:"Join what was predicted and what a unit of the model measured, for signing."`
	Hardening hardeningCmd `cmd:"" help:"Print how an image answers ANSSI-BP-028, in Markdown."`
	Flash     flashCmd     `cmd:"" help:"Write the disk onto a stick, or into a box, and read it back."`
	Release   releaseCmd   `cmd:"" help:"Make and sign what updates boxes in the field."`
}
