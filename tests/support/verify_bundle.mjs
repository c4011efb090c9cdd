// Verifies a Sigstore bundle (file) with a public key (PEM file) by the libraries of the Sigstore project.
import { createPublicKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [modules, bundleFile, keyFile] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
const { bundleFromJSON } = require('@sigstore/bundle')
const { Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify')

const bundle = bundleFromJSON(JSON.parse(readFileSync(bundleFile, 'utf8')))
const publicKey = createPublicKey(readFileSync(keyFile, 'utf8'))
const finder = () => ({ publicKey, validFor: () => true })
const root = { tlogs: [], ctlogs: [], timestampAuthorities: [], certificateAuthorities: [] }
const verifier = new Verifier(toTrustMaterial(root, finder), { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 })
verifier.verify(toSignedEntity(bundle))
console.log('verified')
