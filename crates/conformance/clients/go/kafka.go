package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const startMillis = 1_700_000_000_000

// kafkaChecks is franz-go: a protocol implementation of its own that speaks the newest versions.
type kafkaChecks struct {
	address string
	admin   *kadm.Client
}

func runKafka(c *checks, address string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		c.check("connect", func(context.Context) error { return err })
		return
	}
	k := &kafkaChecks{address: address, admin: kadm.NewClient(client)}
	c.check("create, describe and delete topic", k.topics)
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		c.check("produce and consume "+name, func(ctx context.Context) error { return k.roundTrip(ctx, codecs[name]) })
	}
	c.check("produce with acks 0", func(ctx context.Context) error { return k.acks(ctx, kgo.NoAck()) })
	c.check("produce with acks 1", func(ctx context.Context) error { return k.acks(ctx, kgo.LeaderAck()) })
	c.check("producer with default settings (idempotent)", k.idempotent)
	c.check("two group members share partitions", k.group)
	c.check("commit and resume", k.resume)
	c.check("list offsets", k.offsets)
	c.check("unknown topic", k.unknown)
}

func (k *kafkaChecks) client(options ...kgo.Opt) (*kgo.Client, error) {
	base := []kgo.Opt{
		kgo.SeedBrokers(k.address), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.FetchMaxWait(200 * time.Millisecond), kgo.HeartbeatInterval(300 * time.Millisecond),
		kgo.SessionTimeout(10 * time.Second), kgo.RebalanceTimeout(10 * time.Second),
	}
	return kgo.NewClient(append(base, options...)...)
}

func (k *kafkaChecks) createTopic(ctx context.Context, partitions int32) (string, error) {
	topic := unique("franz")
	_, err := k.admin.CreateTopic(ctx, partitions, 1, nil, topic)
	return topic, err
}

// produce sends one record per number, keyed and with partition number%partitions.
func (k *kafkaChecks) produce(ctx context.Context, topic string, count, partitions int, options ...kgo.Opt) error {
	options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	client, err := k.client(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	var records []*kgo.Record
	for number := range count {
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(number % partitions), Value: []byte(strconv.Itoa(number)),
			Timestamp: time.UnixMilli(startMillis + 100*int64(number)),
		})
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}

func take(ctx context.Context, client *kgo.Client, count int) ([]*kgo.Record, error) {
	var records []*kgo.Record
	for len(records) < count {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("after %d of %d records: %w", len(records), count, err)
		}
		records = append(records, fetches.Records()...)
	}
	return records, nil
}

func (k *kafkaChecks) read(ctx context.Context, topic string, from, count int) error {
	client, err := k.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {0: kgo.NewOffset().At(int64(from))},
	}))
	if err != nil {
		return err
	}
	defer client.Close()
	records, err := take(ctx, client, count)
	if err != nil {
		return err
	}
	return inOrder(records, from)
}

func inOrder(records []*kgo.Record, from int) error {
	for index, record := range records {
		if err := equal(string(record.Value), strconv.Itoa(from+index), "value"); err != nil {
			return err
		}
	}
	return nil
}

func (k *kafkaChecks) topics(ctx context.Context) error {
	topic := unique("franz")
	retention := "123456789"
	if _, err := k.admin.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": &retention}, topic); err != nil {
		return err
	}
	if _, err := k.admin.CreateTopic(ctx, 3, 1, nil, topic); !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("created twice: %v", err)
	}
	details, err := k.admin.ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	if err := equal(len(details[topic].Partitions), 3, "partitions"); err != nil {
		return err
	}
	configs, err := k.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return err
	}
	found := map[string]string{}
	for _, config := range configs[0].Configs {
		found[config.Key] = config.MaybeValue()
	}
	if err := errors.Join(
		equal(found["retention.ms"], retention, "retention.ms"),
		equal(found["cleanup.policy"], "delete", "cleanup.policy"),
	); err != nil {
		return err
	}
	if _, err := k.admin.DeleteTopic(ctx, topic); err != nil {
		return err
	}
	if _, err := k.admin.DeleteTopic(ctx, topic); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("deleted twice: %v", err)
	}
	return nil
}

func (k *kafkaChecks) roundTrip(ctx context.Context, codec kgo.CompressionCodec) error {
	topic, err := k.createTopic(ctx, 1)
	if err != nil {
		return err
	}
	client, err := k.client(kgo.ProducerBatchCompression(codec), kgo.ConsumeTopics(topic))
	if err != nil {
		return err
	}
	defer client.Close()
	var sent []*kgo.Record
	for number := range 300 {
		sent = append(sent, &kgo.Record{
			Topic: topic, Key: []byte("k"), Value: bytes.Repeat([]byte(strconv.Itoa(number)), 50),
			Timestamp: time.UnixMilli(startMillis + int64(number)),
			Headers: []kgo.RecordHeader{
				{Key: "number", Value: []byte(strconv.Itoa(number))}, {Key: "same", Value: []byte("1")},
				{Key: "same", Value: []byte("2")}, {Key: "none"},
			},
		})
	}
	if err := client.ProduceSync(ctx, sent...).FirstErr(); err != nil {
		return err
	}
	received, err := take(ctx, client, len(sent))
	if err != nil {
		return err
	}
	for index, record := range received {
		expected := sent[index]
		if err := errors.Join(
			equal(record.Offset, int64(index), "offset"),
			equal(string(record.Key), "k", "key"),
			equal(string(record.Value), string(expected.Value), "value"),
			equal(record.Timestamp.UnixMilli(), expected.Timestamp.UnixMilli(), "timestamp"),
			equal(fmt.Sprint(record.Headers), fmt.Sprint(expected.Headers), "headers"),
		); err != nil {
			return err
		}
	}
	return nil
}

func (k *kafkaChecks) acks(ctx context.Context, acks kgo.Acks) error {
	topic, err := k.createTopic(ctx, 1)
	if err != nil {
		return err
	}
	if err := k.produce(ctx, topic, 100, 1, kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite()); err != nil {
		return err
	}
	return k.read(ctx, topic, 0, 100)
}

func (k *kafkaChecks) idempotent(ctx context.Context) error {
	topic, err := k.createTopic(ctx, 1)
	if err != nil {
		return err
	}
	if err := k.produce(ctx, topic, 100, 1); err != nil {
		return err
	}
	return k.read(ctx, topic, 0, 100)
}

// member is one group member with what it owns.
type member struct {
	client *kgo.Client
	mutex  sync.Mutex
	owned  map[int32]bool
	values []string
	stop   context.CancelFunc
	done   chan struct{}
}

func (k *kafkaChecks) join(ctx context.Context, group, topic string) (*member, error) {
	m := &member{owned: map[int32]bool{}, done: make(chan struct{})}
	assigned := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		for _, partition := range partitions[topic] {
			m.owned[partition] = true
		}
	}
	revoked := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		for _, partition := range partitions[topic] {
			delete(m.owned, partition)
		}
	}
	client, err := k.client(
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.OnPartitionsAssigned(assigned),
		kgo.OnPartitionsRevoked(revoked), kgo.OnPartitionsLost(revoked), kgo.DisableAutoCommit(),
	)
	if err != nil {
		return nil, err
	}
	m.client = client
	polling, stop := context.WithCancel(ctx)
	m.stop = stop
	go func() {
		defer close(m.done)
		for polling.Err() == nil {
			records := client.PollFetches(polling).Records()
			m.mutex.Lock()
			for _, record := range records {
				m.values = append(m.values, string(record.Value))
			}
			m.mutex.Unlock()
		}
	}()
	return m, nil
}

func (m *member) counts() (owned, values int) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return len(m.owned), len(m.values)
}

func (m *member) leave() {
	m.stop()
	<-m.done
	m.client.Close()
}

func (k *kafkaChecks) group(ctx context.Context) error {
	topic, err := k.createTopic(ctx, 4)
	if err != nil {
		return err
	}
	group := unique("group")
	first, err := k.join(ctx, group, topic)
	if err != nil {
		return err
	}
	owns := func(m *member, count int) bool { owned, _ := m.counts(); return owned == count }
	if err := waitUntil(ctx, "the first member owns all partitions", func() bool { return owns(first, 4) }); err != nil {
		return err
	}
	second, err := k.join(ctx, group, topic)
	if err != nil {
		return err
	}
	shared := func() bool { return owns(first, 2) && owns(second, 2) }
	if err := waitUntil(ctx, "the members share the partitions", shared); err != nil {
		return err
	}
	if err := k.produce(ctx, topic, 200, 4); err != nil {
		return err
	}
	all := func() bool {
		_, one := first.counts()
		_, two := second.counts()
		return one+two >= 200
	}
	if err := waitUntil(ctx, "all records", all); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, value := range append(first.values, second.values...) {
		seen[value] = true
	}
	if err := equal(len(seen), 200, "distinct values"); err != nil {
		return err
	}
	second.leave()
	if err := waitUntil(ctx, "the first member takes over", func() bool { return owns(first, 4) }); err != nil {
		return err
	}
	first.leave()
	return nil
}

func (k *kafkaChecks) resume(ctx context.Context) error {
	topic, err := k.createTopic(ctx, 1)
	if err != nil {
		return err
	}
	if err := k.produce(ctx, topic, 50, 1); err != nil {
		return err
	}
	group := unique("resume")
	options := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit()}
	client, err := k.client(options...)
	if err != nil {
		return err
	}
	records, err := take(ctx, client, 50)
	if err != nil {
		return err
	}
	if err := client.CommitRecords(ctx, records[:20]...); err != nil {
		return err
	}
	client.Close()
	offsets, err := k.admin.FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	stored, _ := offsets.Lookup(topic, 0)
	if err := equal(stored.At, 20, "committed offset"); err != nil {
		return err
	}
	client, err = k.client(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	records, err = take(ctx, client, 30)
	if err != nil {
		return err
	}
	return inOrder(records, 20)
}

func (k *kafkaChecks) offsets(ctx context.Context) error {
	topic, err := k.createTopic(ctx, 1)
	if err != nil {
		return err
	}
	if err := k.produce(ctx, topic, 20, 1); err != nil {
		return err
	}
	starts, err := k.admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return err
	}
	ends, err := k.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	between, err := k.admin.ListOffsetsAfterMilli(ctx, startMillis+1050, topic)
	if err != nil {
		return err
	}
	return errors.Join(
		equal(starts[topic][0].Offset, 0, "start"),
		equal(ends[topic][0].Offset, 20, "end"),
		equal(between[topic][0].Offset, 11, "offset for time"),
		equal(between[topic][0].Timestamp, startMillis+1100, "time found"),
		k.read(ctx, topic, 13, 7),
	)
}

func (k *kafkaChecks) unknown(ctx context.Context) error {
	topic := unique("missing")
	client, err := k.client(kgo.UnknownTopicRetries(1))
	if err != nil {
		return err
	}
	defer client.Close()
	err = client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr()
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("produced without auto creation: %v", err)
	}
	creating, err := k.client(kgo.AllowAutoTopicCreation())
	if err != nil {
		return err
	}
	defer creating.Close()
	return creating.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr()
}
