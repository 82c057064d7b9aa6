'use strict'
// amqplib: the client of most Node services; asks for frames of 4096 bytes and UTF-8 text.

const amqp = require('amqplib')
const { Checks, assert, range, sleep, unique, waitUntil } = require('./check')

const checks = new Checks('amqp')
const url = `amqp://guest:guest@${checks.address}`

async function withConnection (body, settings) {
  const connection = await amqp.connect(`${url}${settings ?? ''}`)
  connection.on('error', () => {})
  try {
    return await body(connection)
  } finally {
    await connection.close().catch(() => {})
  }
}

const withChannel = (body, settings) => withConnection(async (connection) => {
  const channel = await connection.createChannel()
  channel.on('error', () => {})
  return await body(channel, connection)
}, settings)

const exclusive = async (channel, settings = {}) =>
  (await channel.assertQueue('', { exclusive: true, ...settings })).queue

const take = async (channel, queue, settings = { noAck: true }) =>
  await waitUntil(() => channel.get(queue, settings), `a message in ${queue}`)

/** The channel must close with `code`. */
const refused = (code, body) => withConnection(async (connection) => {
  const channel = await connection.createChannel()
  channel.on('error', () => {})
  await assert.rejects(async () => { await body(channel) }, (error) => {
    assert.equal(error.code, code, String(error))
    return true
  })
})

checks.case('connect and refuse', async () => {
  await withChannel(async () => {})
  await assert.rejects(amqp.connect(`amqp://guest:wrong@${checks.address}`), /ACCESS.REFUSED|403/)
  await assert.rejects(amqp.connect(`${url}/no-such-vhost`), /530|NOT_ALLOWED|got <ConnectionClose/)
})

checks.case('all exchange types', () => withChannel(async (channel) => {
  const plans = [
    ['direct', 'key', {}, 'key', {}],
    ['fanout', '', {}, 'anything', {}],
    ['topic', 'a.*.#', {}, 'a.b.c', {}],
    ['headers', '', { 'x-match': 'any', kind: 'x', other: 2 }, '', { kind: 'x' }]
  ]
  for (const [type, binding, args, key, headers] of plans) {
    const { exchange } = await channel.assertExchange(unique(type), type, { autoDelete: true })
    const queue = await exclusive(channel)
    await channel.bindQueue(queue, exchange, binding, args)
    channel.publish(exchange, key, Buffer.from(type), { headers })
    assert.equal((await take(channel, queue)).content.toString(), type)
    await channel.unbindQueue(queue, exchange, binding, args)
  }
  const queue = await exclusive(channel)
  channel.sendToQueue(queue, Buffer.from('default'))
  const message = await take(channel, queue)
  assert.deepEqual([message.content.toString(), message.fields.routingKey], ['default', queue])
}))

checks.case('exchange to exchange', () => withChannel(async (channel) => {
  const source = (await channel.assertExchange(unique('source'), 'topic', { autoDelete: true })).exchange
  const target = (await channel.assertExchange(unique('target'), 'fanout', { autoDelete: true })).exchange
  const queue = await exclusive(channel)
  await channel.bindQueue(queue, target, '')
  await channel.bindExchange(target, source, 'x.*')
  channel.publish(source, 'x.1', Buffer.from('through'))
  assert.equal((await take(channel, queue)).content.toString(), 'through')
  await channel.unbindExchange(target, source, 'x.*')
}))

checks.case('declare, check, purge, delete', () => withChannel(async (channel) => {
  const queue = unique('amqplib')
  await channel.assertQueue(queue, { durable: true, maxLength: 100 })
  range(5).forEach((number) => channel.sendToQueue(queue, Buffer.from(String(number))))
  await waitUntil(async () => (await channel.checkQueue(queue)).messageCount === 5, 'five messages')
  assert.equal((await channel.purgeQueue(queue)).messageCount, 5)
  await refused(406, (other) => other.assertQueue(queue, { durable: true }))
  await refused(404, (other) => other.checkQueue(unique('missing')))
  await refused(404, (other) => other.checkExchange(unique('missing')))
  await refused(404, (other) => other.bindQueue(queue, unique('missing'), ''))
  await refused(406, (other) => other.assertExchange('amq.topic', 'fanout'))
  channel.sendToQueue(queue, Buffer.from('x'))
  await waitUntil(async () => (await channel.checkQueue(queue)).messageCount === 1, 'one message')
  await refused(406, (other) => other.deleteQueue(queue, { ifEmpty: true }))
  assert.equal((await channel.deleteQueue(queue)).messageCount, 1)
}))

checks.case('publisher confirms', () => withConnection(async (connection) => {
  const channel = await connection.createConfirmChannel()
  const { queue } = await channel.assertQueue(unique('confirm'), { durable: true })
  const confirmed = []
  for (const number of range(300)) {
    channel.sendToQueue(queue, Buffer.from(String(number)), { persistent: true }, (error) => {
      confirmed.push(error ?? number)
    })
  }
  await channel.waitForConfirms()
  assert.deepEqual(confirmed, range(300))
  const received = []
  await channel.consume(queue, (message) => {
    received.push(Number(message.content))
    channel.ack(message)
  })
  await waitUntil(() => received.length === 300, 'all messages')
  assert.deepEqual(received, range(300))
  await channel.deleteQueue(queue)
}))

checks.case('mandatory return', () => withConnection(async (connection) => {
  const channel = await connection.createConfirmChannel()
  const returned = []
  channel.on('return', (message) => returned.push(message))
  channel.publish('amq.direct', unique('nobody'), Buffer.from('back'), { mandatory: true, messageId: 'm1' })
  await channel.waitForConfirms()
  // The return comes before the confirm.
  assert.equal(returned.length, 1)
  assert.deepEqual([returned[0].fields.replyCode, returned[0].fields.replyText], [312, 'NO_ROUTE'])
  assert.deepEqual([returned[0].content.toString(), returned[0].properties.messageId], ['back', 'm1'])
}))

checks.case('prefetch, ack, nack, reject', () => withChannel(async (channel) => {
  const dead = await exclusive(channel)
  const queue = await exclusive(channel, { deadLetterExchange: '', deadLetterRoutingKey: dead })
  range(5).forEach((number) => channel.sendToQueue(queue, Buffer.from(String(number))))
  await channel.prefetch(2)
  const received = []
  const { consumerTag } = await channel.consume(queue, (message) => received.push(message))
  await waitUntil(() => received.length === 2, 'two messages')
  await sleep(300)
  assert.equal(received.length, 2)
  channel.nack(received[0], false, true)
  await waitUntil(() => received.length === 3, 'the message again')
  assert.deepEqual([received[2].content.toString(), received[2].fields.redelivered], ['0', true])
  channel.reject(received[2], false)
  const letter = await take(channel, dead)
  assert.equal(letter.content.toString(), '0')
  const [death] = letter.properties.headers['x-death']
  assert.deepEqual([death.queue, death.reason, death.count], [queue, 'rejected', 1])
  channel.ack(received[1])
  await waitUntil(() => received.length === 5, 'two more messages')
  channel.ack(received[4], true)
  await waitUntil(() => received.length === 6, 'the last message')
  channel.ack(received[5])
  assert.deepEqual(received.map((message) => Number(message.content)), [0, 1, 0, 2, 3, 4])
  await channel.cancel(consumerTag)
}))

checks.case('consumer is told when its queue goes away', () => withChannel(async (channel) => {
  const { queue } = await channel.assertQueue(unique('gone'), { durable: false, autoDelete: true })
  const received = []
  await channel.consume(queue, (message) => received.push(message))
  await channel.deleteQueue(queue)
  await waitUntil(() => received.length === 1, 'the cancel')
  assert.equal(received[0], null)
}))

checks.case('exclusive and auto-delete queues', () => withChannel(async (channel) => {
  const name = unique('exclusive')
  await channel.assertQueue(name, { exclusive: true })
  await refused(405, (other) => other.checkQueue(name))
  const auto = unique('auto')
  await channel.assertQueue(auto, { autoDelete: true })
  const { consumerTag } = await channel.consume(auto, () => {})
  await channel.cancel(consumerTag)
  await refused(404, (other) => other.checkQueue(auto))
}))

for (const settings of ['', '?frameMax=8192', '?frameMax=0']) {
  checks.case(`big message${settings && ` with ${settings.slice(1)}`}`, () => withChannel(async (channel) => {
    const queue = await exclusive(channel)
    const body = Buffer.alloc(1_500_000, 'abcdefghijklmnopqrstuvwxyz')
    channel.sendToQueue(queue, body)
    assert.ok((await take(channel, queue)).content.equals(body), 'the body changed')
  }, settings))
}

checks.case('properties and headers of all types', () => withChannel(async (channel) => {
  const queue = await exclusive(channel)
  const sent = {
    contentType: 'application/json',
    contentEncoding: 'identity',
    deliveryMode: 2,
    priority: 5,
    correlationId: 'c1',
    replyTo: 'answers',
    expiration: '60000',
    messageId: 'm1',
    timestamp: 1_700_000_000,
    type: 'kind',
    userId: 'guest',
    appId: 'app'
  }
  const headers = {
    yes: true,
    no: false,
    small: 7,
    negative: -70_000,
    large: 2 ** 40,
    double: 2.5,
    text: 'grün ☕',
    nothing: null,
    bytes: Buffer.from([0, 255, 1]),
    list: [1, 'two', null, [3], { four: 4 }],
    table: { deep: { deeper: [true, 1.5] } },
    float: { '!': 'float', value: 0.5 },
    byte: { '!': 'int8', value: -5 },
    time: { '!': 'timestamp', value: 1_700_000_000 },
    decimal: { '!': 'decimal', value: { digits: 1234, places: 2 } }
  }
  channel.sendToQueue(queue, Buffer.from('{}'), { ...sent, headers })
  const { properties } = await take(channel, queue)
  for (const [name, value] of Object.entries(sent)) assert.equal(properties[name], value, name)
  for (const [name, value] of Object.entries(headers)) {
    const typed = value?.['!']
    const actual = properties.headers[name]
    if (typed === 'float' || typed === 'int8') assert.equal(actual, value.value, name)
    else assert.deepEqual(actual, value, name)
  }
}))

checks.case('heartbeat', () => withChannel(async (channel) => {
  const queue = await exclusive(channel)
  await sleep(5_000)
  channel.sendToQueue(queue, Buffer.from('alive'))
  assert.equal((await take(channel, queue)).content.toString(), 'alive')
}, '?heartbeat=1'))

checks.case('request and reply', () => withChannel(async (channel) => {
  const requests = await exclusive(channel)
  const answers = await exclusive(channel)
  await channel.consume(requests, (message) => {
    const { replyTo, correlationId } = message.properties
    channel.sendToQueue(replyTo, Buffer.from(`${message.content} pong`), { correlationId })
    channel.ack(message)
  })
  channel.sendToQueue(requests, Buffer.from('ping'), { correlationId: 'q1', replyTo: answers })
  const answer = await take(channel, answers)
  assert.deepEqual([answer.content.toString(), answer.properties.correlationId], ['ping pong', 'q1'])
}))

checks.finish()
