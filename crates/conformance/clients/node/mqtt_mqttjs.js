'use strict'
// MQTT.js: MQTT 3.1.1 and 5.

const { once } = require('node:events')
const mqtt = require('mqtt')
const { Checks, assert, range, sleep, unique, waitUntil } = require('./check')

const checks = new Checks('mqtt')

async function connect (protocolVersion, settings = {}) {
  const client = await mqtt.connectAsync(`mqtt://${checks.address}`, {
    protocolVersion,
    clientId: unique('mqttjs'),
    reconnectPeriod: 0,
    ...settings
  }, false)
  client.received = []
  client.on('message', (topic, payload, packet) => client.received.push({ topic, payload, packet }))
  client.on('error', () => {})
  return client
}

/** Connects, and keeps what a resumed session sends at once; resolves when CONNACK came. */
function resume (protocolVersion, settings) {
  const client = mqtt.connect(`mqtt://${checks.address}`, { protocolVersion, reconnectPeriod: 0, ...settings })
  client.received = []
  client.on('message', (topic, payload, packet) => client.received.push({ topic, payload, packet }))
  client.on('error', () => {})
  return once(client, 'connect').then(([connack]) => ({ client, connack }))
}

const take = async (client, count) => {
  await waitUntil(() => client.received.length >= count, `${count} messages`)
  return client.received.splice(0, count)
}
const texts = (messages) => messages.map((message) => message.payload.toString())

/** Fails when more came before a marker that the client sends to itself. */
async function nothingMore (client) {
  const marker = unique('marker')
  await client.subscribeAsync(marker, { qos: 1 })
  await client.publishAsync(marker, 'marker', { qos: 1 })
  await waitUntil(() => client.received.some((message) => message.topic === marker), 'the marker')
  const others = client.received.filter((message) => message.topic !== marker).map((message) => message.topic)
  client.received.length = 0
  assert.deepEqual(others, [])
}

const both = (name, body) => {
  checks.case(`${name} (3.1.1)`, () => body(4))
  checks.case(`${name} (5)`, () => body(5))
}

const lasting = (version, clientId) => version === 5
  ? { clientId, clean: false, properties: { sessionExpiryInterval: 3600 } }
  : { clientId, clean: false }

both('quality of service in both directions', async (version) => {
  const [sender, receiver] = [await connect(version), await connect(version)]
  for (const qos of [0, 1, 2]) {
    const topic = unique('qos')
    const [granted] = await receiver.subscribeAsync(topic, { qos })
    assert.equal(granted.qos, qos)
    for (const outgoing of [0, 1, 2]) {
      for (const number of range(20)) await sender.publishAsync(topic, `${outgoing}-${number}`, { qos: outgoing })
      const messages = await take(receiver, 20)
      assert.deepEqual(texts(messages), range(20).map((number) => `${outgoing}-${number}`))
      assert.ok(messages.every((message) => message.packet.qos === Math.min(qos, outgoing)))
    }
  }
  await nothingMore(receiver)
  await sender.endAsync()
  await receiver.endAsync()
})

both('wildcards and unsubscribe', async (version) => {
  const root = unique('wild')
  const client = await connect(version)
  await client.subscribeAsync(`${root}/+/end`, { qos: 1 })
  for (const topic of ['a/end', 'a/b/end', 'end', '/end', 'b/end']) {
    await client.publishAsync(`${root}/${topic}`, topic, { qos: 1 })
  }
  assert.deepEqual(texts(await take(client, 3)), ['a/end', '/end', 'b/end'])
  await client.unsubscribeAsync(`${root}/+/end`)
  await client.publishAsync(`${root}/a/end`, 'late', { qos: 1 })
  await nothingMore(client)
  await client.endAsync()
})

both('retained messages', async (version) => {
  const root = unique('kept')
  const sender = await connect(version)
  await sender.publishAsync(`${root}/a`, 'one', { qos: 1, retain: true })
  await sender.publishAsync(`${root}/b/c`, 'two', { qos: 0, retain: true })
  await sender.publishAsync(`${root}/d`, 'no', { qos: 1 })
  const receiver = await connect(version)
  await receiver.subscribeAsync(`${root}/#`, { qos: 1 })
  const found = await take(receiver, 2)
  assert.deepEqual(found.map((message) => [message.topic, message.packet.retain]).sort(),
    [[`${root}/a`, true], [`${root}/b/c`, true]])
  await sender.publishAsync(`${root}/a`, '', { qos: 1, retain: true })
  await sender.publishAsync(`${root}/b/c`, '', { qos: 1, retain: true })
  await take(receiver, 2)
  const late = await connect(version)
  await late.subscribeAsync(`${root}/#`, { qos: 1 })
  await nothingMore(late)
  for (const client of [sender, receiver, late]) await client.endAsync()
})

both('will', async (version) => {
  const topic = unique('will')
  const watcher = await connect(version)
  await watcher.subscribeAsync(topic, { qos: 1 })
  const lost = await connect(version, { will: { topic, payload: Buffer.from('lost'), qos: 1, retain: false } })
  lost.stream.destroy()
  assert.deepEqual(texts(await take(watcher, 1)), ['lost'])
  const polite = await connect(version, { will: { topic, payload: Buffer.from('no'), qos: 1, retain: false } })
  await polite.endAsync()
  await nothingMore(watcher)
  await watcher.endAsync()
})

both('persistent session', async (version) => {
  const clientId = unique('session')
  const topic = unique('away')
  const first = await resume(version, lasting(version, clientId))
  assert.equal(first.connack.sessionPresent, false)
  await first.client.subscribeAsync(topic, { qos: 2 })
  await first.client.endAsync()
  const sender = await connect(version)
  for (const number of range(40)) await sender.publishAsync(topic, String(number), { qos: 1 + number % 2 })
  const second = await resume(version, lasting(version, clientId))
  assert.equal(second.connack.sessionPresent, true)
  const messages = await take(second.client, 40)
  for (const qos of [1, 2]) {
    const numbers = messages.filter((message) => message.packet.qos === qos).map((message) => Number(message.payload))
    assert.deepEqual(numbers, range(20).map((number) => 2 * number + qos - 1))
  }
  await nothingMore(second.client)
  await second.client.endAsync()
  const clean = await resume(version, { clientId, clean: true })
  assert.equal(clean.connack.sessionPresent, false)
  await clean.client.endAsync()
  await sender.endAsync()
})

both('session takeover', async (version) => {
  const clientId = unique('taken')
  const first = await connect(version, { clientId })
  const closed = once(first, 'close')
  const second = await connect(version, { clientId })
  await closed
  await second.subscribeAsync(clientId, { qos: 1 })
  await second.publishAsync(clientId, 'x', { qos: 1 })
  assert.deepEqual(texts(await take(second, 1)), ['x'])
  await second.endAsync()
})

both('shared subscriptions', async (version) => {
  const topic = unique('work')
  const filter = `$share/${unique('share')}/${topic}`
  const members = [await connect(version), await connect(version)]
  for (const member of members) await member.subscribeAsync(filter, { qos: 1 })
  const sender = await connect(version)
  for (const number of range(40)) await sender.publishAsync(topic, String(number), { qos: 1 })
  const received = () => members.flatMap((member) => texts(member.received)).map(Number).sort((a, b) => a - b)
  await waitUntil(() => received().length >= 40, 'all messages')
  assert.deepEqual(received(), range(40))
  assert.ok(members.every((member) => member.received.length > 0), 'a member received nothing')
  for (const client of [...members, sender]) await client.endAsync()
})

both('keep-alive', async (version) => {
  // It gives the broker half of this for an answer, and machines have been seen to stand still for half a second.
  const client = await connect(version, { keepalive: 3 })
  await sleep(8_000)
  assert.equal(client.connected, true)
  await client.endAsync()
})

both('big payload', async (version) => {
  const topic = unique('big')
  const client = await connect(version)
  await client.subscribeAsync(topic, { qos: 2 })
  const payload = Buffer.alloc(500_000, 'abcdefghijklmnopqrstuvwxyz')
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(topic, payload, { qos })
    assert.ok((await take(client, 1))[0].payload.equals(payload), 'the payload changed')
  }
  await client.endAsync()
})

checks.case('properties travel with the message (5)', async () => {
  const topic = unique('properties')
  const client = await connect(5)
  await client.subscribeAsync(topic, { qos: 1 })
  await client.publishAsync(topic, '{}', {
    qos: 1,
    properties: {
      userProperties: { a: ['1', '3'], b: '2' },
      correlationData: Buffer.from([0, 1, 2]),
      responseTopic: 'answers/here',
      contentType: 'application/json',
      payloadFormatIndicator: true,
      messageExpiryInterval: 600
    }
  })
  const [{ packet }] = await take(client, 1)
  const { properties } = packet
  assert.deepEqual({ ...properties.userProperties }, { a: ['1', '3'], b: '2' })
  assert.deepEqual([...properties.correlationData], [0, 1, 2])
  assert.equal(properties.responseTopic, 'answers/here')
  assert.equal(properties.contentType, 'application/json')
  assert.equal(properties.payloadFormatIndicator, true)
  assert.ok(properties.messageExpiryInterval <= 600 && properties.messageExpiryInterval > 590)
  await client.endAsync()
})

checks.case('request response information (5)', async () => {
  const client = await connect(5, { properties: { requestResponseInformation: true, requestProblemInformation: true } })
  await client.endAsync()
})

checks.case('topic aliases in both directions (5)', async () => {
  const topic = unique('alias')
  const client = await connect(5, { autoAssignTopicAlias: true, properties: { topicAliasMaximum: 10 } })
  await client.subscribeAsync(topic, { qos: 1 })
  for (const number of range(5)) await client.publishAsync(topic, String(number), { qos: 1 })
  const messages = await take(client, 5)
  assert.deepEqual(messages.map((message) => [message.topic, message.payload.toString()]),
    range(5).map((number) => [topic, String(number)]))
  await client.endAsync()
})

checks.case('message expiry (5)', async () => {
  const clientId = unique('expiry')
  const topic = unique('expiry')
  const { client } = await resume(5, lasting(5, clientId))
  await client.subscribeAsync(topic, { qos: 1 })
  await client.endAsync()
  const sender = await connect(5)
  await sender.publishAsync(topic, 'short', { qos: 1, properties: { messageExpiryInterval: 1 } })
  await sender.publishAsync(topic, 'long', { qos: 1, properties: { messageExpiryInterval: 100 } })
  await sleep(2_500)
  const again = await resume(5, lasting(5, clientId))
  assert.deepEqual(texts(await take(again.client, 1)), ['long'])
  await nothingMore(again.client)
  await again.client.endAsync()
  await (await connect(5, { clientId, clean: true })).endAsync()
  await sender.endAsync()
})

checks.finish()
