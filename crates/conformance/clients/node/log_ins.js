'use strict'
// kafkajs, amqplib and mqtt.js log in by every mechanism of their protocols, over TLS.

const fs = require('node:fs')
const path = require('node:path')
const amqplib = require('amqplib')
const { Kafka, logLevel } = require('kafkajs')
const mqtt = require('mqtt')
const { Checks, addresses, assert, unique } = require('./check')

const checks = new Checks('amqp')
const folder = process.env.CONFORMANCE_CREDENTIALS
const read = (name) => fs.readFileSync(path.join(folder, name))
const text = (name) => read(name).toString('ascii')
const tls = (name) => ({
  ca: [read('authority.pem')],
  ...(name ? { cert: read(`${name}.pem`), key: read(`${name}.key`) } : {})
})
const hostAndPort = (protocol) => {
  const address = addresses[protocol]
  const at = address.lastIndexOf(':')
  return { host: address.slice(0, at), port: Number(address.slice(at + 1)) }
}

// Kafka

const password = { username: 'ann', password: 'ann-password' }
const bearer = (name) => ({ mechanism: 'oauthbearer', oauthBearerProvider: async () => ({ value: text(name) }) })
const withSasl = (sasl) => ({ ssl: tls(), sasl })

/** The names of the topics that the client could create: one of the user's, and one of nobody's. */
async function created (settings, user) {
  const kafka = new Kafka({
    brokers: [addresses.kafka],
    logLevel: logLevel.NOTHING,
    retry: { retries: 0 },
    ...settings
  })
  const admin = kafka.admin()
  await admin.connect()
  try {
    const names = []
    for (const topic of [unique(`${user}-topic`), unique('other')]) {
      await admin.createTopics({ topics: [{ topic, numPartitions: 1, replicationFactor: 1 }] })
        .then(() => names.push(topic.split('-')[0]))
        .catch((error) => assert.match(String(error.errors ?? error), /authoriz/i))
    }
    return names
  } finally {
    await admin.disconnect()
  }
}

for (const [name, user, settings] of [
  ['plain', 'ann', withSasl({ mechanism: 'plain', ...password })],
  ['scram-sha-256', 'ann', withSasl({ mechanism: 'scram-sha-256', ...password })],
  ['scram-sha-512', 'ann', withSasl({ mechanism: 'scram-sha-512', ...password })],
  ['oauthbearer', 'tom', withSasl(bearer('token'))],
  ['a client certificate', 'mia', { ssl: tls('mia') }]
]) {
  checks.case(`kafkajs: ${name}`, async () => assert.deepEqual(await created(settings, user), [user]))
}

for (const [name, sasl] of [
  ['scram-sha-256', { mechanism: 'scram-sha-256', username: 'ann', password: 'wrong' }],
  ['oauthbearer', bearer('wrong.token')]
]) {
  checks.case(`kafkajs: ${name} with wrong credentials is refused`, async () => {
    await assert.rejects(created(withSasl(sasl), 'ann'), /SASL|auth/i)
  })
}

// AMQP

const external = { mechanism: 'EXTERNAL', response: () => Buffer.from('') }
const plain = (username, secret) => amqplib.credentials.plain(username, secret)

async function declares (user, credentials, name) {
  const { host, port } = hostAndPort('amqp')
  const connection = await amqplib.connect(
    { protocol: 'amqps', hostname: host, port, username: '', password: '' },
    { credentials, ...tls(name) }
  )
  connection.on('error', () => {})
  try {
    const channel = await connection.createChannel()
    channel.on('error', () => {})
    await channel.assertQueue(unique(`${user}-queue`), { durable: false })
    await assert.rejects(channel.assertQueue(unique('other'), { durable: false }), /403/)
  } finally {
    await connection.close()
  }
}

for (const [name, user, credentials, certificate] of [
  ['PLAIN', 'ann', plain('ann', 'ann-password')],
  ['AMQPLAIN', 'ann', amqplib.credentials.amqplain('ann', 'ann-password')],
  ['PLAIN with a token', 'tom', plain('tom', text('token'))],
  ['EXTERNAL', 'mia', external, 'mia']
]) {
  checks.case(`amqplib: ${name}`, () => declares(user, credentials, certificate))
}

checks.case('amqplib: wrong credentials are refused', async () => {
  for (const [credentials, certificate] of [
    [plain('ann', 'wrong')],
    [plain('tom', text('wrong.token'))],
    [external, 'stranger'],
    [external]
  ]) {
    const refused = /ACCESS[-_]REFUSED|403|refused|EXTERNAL is not provided/i
    await assert.rejects(declares('ann', credentials, certificate), refused)
  }
})

// MQTT

async function grants (version, user, options, name) {
  const { host, port } = hostAndPort('mqtt')
  const client = await mqtt.connectAsync({
    protocol: 'mqtts', host, port, protocolVersion: version, reconnectPeriod: 0, ...tls(name), ...options
  })
  try {
    const granted = await client.subscribeAsync([`${user}/a`], { qos: 1 })
    await assert.rejects(client.subscribeAsync(['other/a'], { qos: 1 }))
    return granted[0].qos
  } finally {
    await client.endAsync()
  }
}

for (const version of [4, 5]) {
  checks.case(`mqtt.js: password, token and certificate (version ${version})`, async () => {
    assert.equal(await grants(version, 'ann', password), 1)
    assert.equal(await grants(version, 'tom', { username: 'tom', password: text('token') }), 1)
    assert.equal(await grants(version, 'mia', {}, 'mia'), 1)
  })
}

checks.case('mqtt.js: wrong credentials are refused', async () => {
  const refused = /refused|authori/i
  await assert.rejects(grants(5, 'ann', { username: 'ann', password: 'wrong' }), refused)
  await assert.rejects(grants(4, 'tom', { username: 'tom', password: text('wrong.token') }), refused)
  await assert.rejects(grants(5, 'mia', {}), refused)
})

checks.finish()
