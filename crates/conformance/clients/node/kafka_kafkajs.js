'use strict'
// kafkajs: a protocol implementation of its own, with the older versions of each request.

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require('kafkajs')
const lz4 = require('lz4js')
const xxh32 = require('lz4js/xxh32')
const { ZstdCodec } = require('zstd-codec')
const { Checks, assert, range, unique, waitUntil } = require('./check')

const checks = new Checks('kafka')
const kafka = new Kafka({
  clientId: 'conformance',
  brokers: [checks.address],
  logLevel: logLevel.NOTHING,
  retry: { initialRetryTime: 50, retries: 6 }
})

const zstd = new Promise((resolve) => ZstdCodec.run((module) => resolve(new module.Simple())))
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
// lz4js makes one independent block of what is this small, but does not set the flag that Kafka insists on.
const independent = (frame) => {
  frame[4] |= 0x20
  frame[6] = (xxh32.hash(0, frame, 4, 2) >> 8) & 0xff
  return frame
}
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => independent(Buffer.from(lz4.compress(encoder.buffer))),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer))
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from((await zstd).decompress(buffer))
})

async function withAdmin (body) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await body(admin)
  } finally {
    await admin.disconnect()
  }
}

async function createTopic (numPartitions = 1, configEntries = []) {
  const topic = unique('kafkajs')
  const created = await withAdmin((admin) => admin.createTopics({
    topics: [{ topic, numPartitions, replicationFactor: 1, configEntries }],
    waitForLeaders: true
  }))
  assert.equal(created, true)
  return topic
}

async function send (topic, messages, settings = {}) {
  const producer = kafka.producer(settings.producer)
  await producer.connect()
  try {
    return await producer.send({ topic, messages, ...settings.send })
  } finally {
    await producer.disconnect()
  }
}

/** Reads `count` messages as a group; `commit` also commits after them. */
async function read (topic, count, groupId = unique('group'), commit = false) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, heartbeatInterval: 500, maxWaitTimeInMs: 200 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const messages = []
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      if (messages.length < count) messages.push({ partition, ...message })
    }
  })
  try {
    await waitUntil(() => messages.length >= count, `${count} messages`)
    if (commit) {
      const last = messages[count - 1]
      const offset = String(Number(last.offset) + 1)
      await consumer.commitOffsets([{ topic, partition: last.partition, offset, metadata: 'here' }])
    }
  } finally {
    await consumer.disconnect()
  }
  return messages
}

// kafkajs loses the code when it gives up retrying; the text stays.
const unknownTopic = /server does not host this topic-partition/
const numbers = (messages) => messages.map((message) => Number(message.value))

checks.case('create, describe and delete topic', async () => {
  const topic = await createTopic(3, [{ name: 'retention.ms', value: '123456789' }])
  await withAdmin(async (admin) => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    assert.equal(topics[0].partitions.length, 3)
    assert.equal(await admin.createTopics({ topics: [{ topic }] }), false)
    const { resources } = await admin.describeConfigs({
      includeSynonyms: true,
      resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: ['retention.ms', 'cleanup.policy'] }]
    })
    const entries = Object.fromEntries(resources[0].configEntries.map((entry) => [entry.configName, entry]))
    assert.equal(entries['retention.ms'].configValue, '123456789')
    assert.equal(entries['cleanup.policy'].configValue, 'delete')
    assert.equal(Object.keys(entries).length, 2)
    await admin.deleteTopics({ topics: [topic] })
    await waitUntil(async () => !(await admin.listTopics()).includes(topic), 'the topic is gone')
    await assert.rejects(admin.deleteTopics({ topics: [topic] }), unknownTopic)
  })
})

for (const codec of ['None', 'GZIP', 'Snappy', 'LZ4', 'ZSTD']) {
  checks.case(`produce and consume ${codec.toLowerCase()}`, async () => {
    const topic = await createTopic()
    const sent = range(200).map((number) => ({
      key: `k${number % 5}`,
      value: `value ${number} `.repeat(20),
      headers: { number: String(number), many: ['1', '2'] },
      timestamp: String(1_700_000_000_000 + number)
    }))
    const [report] = await send(topic, sent, { send: { compression: CompressionTypes[codec], acks: -1 } })
    assert.deepEqual([report.partition, report.errorCode, report.baseOffset], [0, 0, '0'])
    const received = await read(topic, 200)
    received.forEach((message, index) => {
      assert.equal(message.offset, String(index))
      assert.equal(message.key.toString(), sent[index].key)
      assert.equal(message.value.toString(), sent[index].value)
      assert.equal(message.timestamp, sent[index].timestamp)
      assert.equal(message.headers.number.toString(), String(index))
      assert.deepEqual(message.headers.many.map(String), ['1', '2'])
    })
  })
}

for (const acks of [0, 1]) {
  checks.case(`produce with acks ${acks}`, async () => {
    const topic = await createTopic()
    await send(topic, range(50).map((number) => ({ value: String(number) })), { send: { acks } })
    assert.deepEqual(numbers(await read(topic, 50)), range(50))
  })
}

checks.case('idempotent producer', async () => {
  const topic = await createTopic()
  await send(topic, range(50).map((number) => ({ value: String(number) })), { producer: { idempotent: true } })
  assert.deepEqual(numbers(await read(topic, 50)), range(50))
})

checks.case('two group members share partitions', async () => {
  const topic = await createTopic(4)
  const groupId = unique('group')
  const members = range(2).map(() => {
    const consumer = kafka.consumer({
      groupId, sessionTimeout: 10_000, heartbeatInterval: 300, maxWaitTimeInMs: 200, rebalanceTimeout: 5_000
    })
    const member = { consumer, partitions: [], values: [] }
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      member.partitions = payload.memberAssignment[topic] ?? []
    })
    return member
  })
  const start = async (member) => {
    await member.consumer.connect()
    await member.consumer.subscribe({ topics: [topic], fromBeginning: true })
    await member.consumer.run({ eachMessage: async ({ message }) => { member.values.push(Number(message.value)) } })
  }
  await start(members[0])
  await waitUntil(() => members[0].partitions.length === 4, 'the first member owns all partitions')
  await start(members[1])
  await waitUntil(() => members.every((member) => member.partitions.length === 2), 'the members share the partitions')
  assert.deepEqual(members.flatMap((member) => member.partitions).sort(), [0, 1, 2, 3])
  await send(topic, range(100).map((number) => ({ value: String(number), partition: number % 4 })))
  await waitUntil(() => members[0].values.length + members[1].values.length >= 100, 'all messages')
  assert.deepEqual(members.flatMap((member) => member.values).sort((a, b) => a - b), range(100))
  await members[1].consumer.disconnect()
  await waitUntil(() => members[0].partitions.length === 4, 'the first member takes over')
  await members[0].consumer.disconnect()
})

checks.case('commit and resume', async () => {
  const topic = await createTopic()
  const groupId = unique('resume')
  await send(topic, range(40).map((number) => ({ value: String(number) })))
  assert.deepEqual(numbers(await read(topic, 15, groupId, true)), range(15))
  const [stored] = await withAdmin((admin) => admin.fetchOffsets({ groupId, topics: [topic] }))
  assert.deepEqual(stored.partitions, [{ partition: 0, offset: '15', metadata: 'here' }])
  assert.deepEqual(numbers(await read(topic, 25, groupId)), range(25, 15))
})

checks.case('list offsets', async () => {
  const topic = await createTopic()
  const start = 1_700_000_000_000
  await send(topic, range(20).map((number) => ({ value: 'x', timestamp: String(start + 100 * number) })))
  await withAdmin(async (admin) => {
    const [ends] = await admin.fetchTopicOffsets(topic)
    assert.deepEqual([ends.low, ends.high], ['0', '20'])
    const [found] = await admin.fetchTopicOffsetsByTimestamp(topic, start + 1050)
    assert.equal(found.offset, '11')
    const [late] = await admin.fetchTopicOffsetsByTimestamp(topic, start + 10_000_000)
    assert.equal(late.offset, '20')
  })
})

checks.case('unknown topic', async () => {
  const missing = unique('missing')
  await withAdmin(async (admin) => {
    await assert.rejects(admin.fetchTopicOffsets(missing), unknownTopic)
  })
  await assert.rejects(
    send(missing, [{ value: 'x' }], { producer: { allowAutoTopicCreation: false, retry: { retries: 1 } } }),
    unknownTopic
  )
})

checks.finish()
