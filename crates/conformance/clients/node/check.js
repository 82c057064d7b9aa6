'use strict'
// What the JavaScript client programs share: named checks, one line each, and the addresses from the command line.
// A program is called as `program.js kafka=HOST:PORT`; each check prints `ok NAME` or `not ok NAME: reason`, and the
// process exits with 1 when any check failed.

const crypto = require('node:crypto')
const assert = require('node:assert/strict')

const CHECK_MS_MAX = 90_000

const addresses = Object.fromEntries(process.argv.slice(2).map((argument) => argument.split('=', 2)))

class Checks {
  constructor (protocol) {
    this.address = addresses[protocol]
    if (!this.address) {
      console.error(`usage: node ${process.argv[1]} ${protocol}=HOST:PORT`)
      process.exit(2)
    }
    this.host = this.address.slice(0, this.address.lastIndexOf(':'))
    this.port = Number(this.address.slice(this.address.lastIndexOf(':') + 1))
    this.cases = []
  }

  /** Adds a check; all run in order in `finish`. */
  case (name, body) {
    this.cases.push({ name, body })
  }

  async finish () {
    let failed = this.cases.length === 0
    // An error that no check awaits belongs to the check that runs.
    let stray = null
    process.on('uncaughtException', (error) => { stray?.(error) })
    process.on('unhandledRejection', (error) => { stray?.(error) })
    for (const { name, body } of this.cases) {
      let timer
      const limits = new Promise((resolve, reject) => {
        stray = reject
        timer = setTimeout(() => reject(new Error(`no result after ${CHECK_MS_MAX} ms`)), CHECK_MS_MAX)
      })
      try {
        await Promise.race([body(), limits])
        console.log(`ok ${name}`)
      } catch (error) {
        failed = true
        console.log(`not ok ${name}: ${String(error?.message ?? error).replace(/\s+/g, ' ').slice(0, 600)}`)
        console.error(error)
      } finally {
        clearTimeout(timer)
        stray = null
      }
    }
    process.exit(failed ? 1 : 0)
  }
}

const unique = (prefix) => `${prefix}-${crypto.randomBytes(5).toString('hex')}`
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Waits until `condition` holds; fails after `ms`. */
async function waitUntil (condition, what, ms = 30_000) {
  const deadline = Date.now() + ms
  for (;;) {
    const result = await condition()
    if (result) return result
    if (Date.now() > deadline) throw new Error(`${what}: not reached in ${ms} ms`)
    await sleep(20)
  }
}

const range = (count, start = 0) => Array.from({ length: count }, (_, index) => start + index)

module.exports = { Checks, addresses, assert, range, sleep, unique, waitUntil }
