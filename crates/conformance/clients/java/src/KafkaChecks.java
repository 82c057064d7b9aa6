package posthaste.conformance;

import static posthaste.conformance.Checks.equal;
import static posthaste.conformance.Checks.require;
import static posthaste.conformance.Checks.unique;
import static posthaste.conformance.Checks.waitUntil;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** The Java client, which every other Kafka tool is measured by. */
final class KafkaChecks {
    private static final long START = 1_700_000_000_000L;

    private final String address;
    private final Admin admin;

    private KafkaChecks(String address) {
        this.address = address;
        this.admin = Admin.create(Map.of("bootstrap.servers", address));
    }

    static void run(Checks checks, String address) {
        KafkaChecks kafka = new KafkaChecks(address);
        checks.check("create, describe and delete topic", kafka::topics);
        checks.check("describe cluster", kafka::cluster);
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            checks.check("produce and consume " + codec, () -> kafka.roundTrip(codec));
        }
        for (String acks : List.of("0", "1")) {
            checks.check("produce with acks " + acks, () -> kafka.acknowledgement(acks));
        }
        checks.check("producer with default settings (idempotent)", kafka::idempotent);
        checks.check("record over max.message.bytes", kafka::tooLarge);
        checks.check("two group members share partitions, range", () -> kafka.group(RangeAssignor.class));
        checks.check(
                "two group members share partitions, cooperative", () -> kafka.group(CooperativeStickyAssignor.class));
        checks.check("commit and resume", kafka::resume);
        checks.check("static membership", kafka::staticMember);
        checks.check("subscribe by pattern", kafka::pattern);
        checks.check("list offsets", kafka::offsets);
        checks.check("seek, position, lag", kafka::seek);
        checks.check("unknown topic", kafka::unknown);
    }

    private KafkaProducer<String, String> producer(Map<String, Object> settings) {
        Properties properties = new Properties();
        properties.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, address);
        properties.put(ProducerConfig.LINGER_MS_CONFIG, 5);
        properties.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, false);
        properties.putAll(settings);
        return new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
    }

    private KafkaConsumer<String, String> consumer(Map<String, Object> settings) {
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, address);
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        properties.put(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 300);
        properties.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 10000);
        properties.put(ConsumerConfig.METADATA_MAX_AGE_CONFIG, 1000);
        properties.putAll(settings);
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    private String createTopic(int partitions) throws Exception {
        String topic = unique("java");
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) -1))).all().get();
        return topic;
    }

    private void send(String topic, int count, Map<String, Object> settings) throws Exception {
        List<Future<RecordMetadata>> reports = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer(settings)) {
            for (int number = 0; number < count; number++) {
                reports.add(producer.send(new ProducerRecord<>(topic, "k" + number, "" + number)));
            }
        }
        for (Future<RecordMetadata> report : reports) {
            report.get();
        }
    }

    private static List<ConsumerRecord<String, String>> take(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.nanoTime() + Duration.ofSeconds(40).toNanos();
        while (records.size() < count) {
            require(System.nanoTime() < deadline, records.size() + " of " + count + " records came");
            ConsumerRecords<String, String> some = consumer.poll(Duration.ofMillis(200));
            some.forEach(records::add);
        }
        return records;
    }

    private List<Integer> readAll(String topic, int count) {
        try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            consumer.seekToBeginning(consumer.assignment());
            return numbers(take(consumer, count));
        }
    }

    private static List<Integer> numbers(Collection<ConsumerRecord<String, String>> records) {
        return records.stream().map(record -> Integer.valueOf(record.value())).toList();
    }

    private static List<Integer> range(int from, int to) {
        return IntStream.range(from, to).boxed().toList();
    }

    private static void fails(Class<? extends Throwable> expected, Future<?> future) throws Exception {
        try {
            future.get();
        } catch (ExecutionException error) {
            require(expected.isInstance(error.getCause()), "unexpected " + error.getCause());
            return;
        }
        throw new AssertionError("expected " + expected.getSimpleName());
    }

    private void topics() throws Exception {
        String topic = unique("java");
        NewTopic wanted = new NewTopic(topic, 3, (short) 1).configs(Map.of("retention.ms", "123456789"));
        admin.createTopics(List.of(wanted)).all().get();
        var description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        equal(description.partitions().size(), 3, "partitions");
        require(admin.listTopics().names().get().contains(topic), "the topic is not listed");
        fails(TopicExistsException.class, admin.createTopics(List.of(wanted)).all());
        fails(
                InvalidTopicException.class,
                admin.createTopics(List.of(new NewTopic("not a name", 1, (short) 1))).all());
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        equal(config.get("retention.ms").value(), "123456789", "retention.ms");
        equal(config.get("cleanup.policy").value(), "delete", "cleanup.policy");
        require(config.get("cleanup.policy").isDefault(), "cleanup.policy is not called a default");
        admin.deleteTopics(List.of(topic)).all().get();
        waitUntil(() -> !admin.listTopics().names().get().contains(topic), "the topic is gone");
        fails(UnknownTopicOrPartitionException.class, admin.deleteTopics(List.of(topic)).all());
    }

    private void cluster() throws Exception {
        var cluster = admin.describeCluster();
        require(!cluster.nodes().get().isEmpty(), "no nodes");
        require(cluster.clusterId().get() != null, "no cluster id");
        require(cluster.controller().get() != null, "no controller");
    }

    private void roundTrip(String codec) throws Exception {
        String topic = createTopic(1);
        try (KafkaProducer<String, String> producer = producer(Map.of("compression.type", codec, "acks", "all"))) {
            List<Future<RecordMetadata>> reports = new ArrayList<>();
            for (int number = 0; number < 300; number++) {
                ProducerRecord<String, String> record =
                        new ProducerRecord<>(topic, 0, START + number, "k" + number % 5, ("v" + number).repeat(50));
                record.headers().add("number", bytes("" + number)).add("same", bytes("1")).add("same", bytes("2"));
                record.headers().add("none", null);
                reports.add(producer.send(record));
            }
            for (int number = 0; number < 300; number++) {
                equal(reports.get(number).get().offset(), (long) number, "acknowledged offset");
            }
        }
        try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            int number = 0;
            for (ConsumerRecord<String, String> record : take(consumer, 300)) {
                equal(record.offset(), (long) number, "offset");
                equal(record.key(), "k" + number % 5, "key");
                equal(record.value(), ("v" + number).repeat(50), "value");
                equal(record.timestamp(), START + number, "timestamp");
                List<String> names = new ArrayList<>();
                for (Header header : record.headers()) {
                    names.add(header.key());
                }
                equal(names, List.of("number", "same", "same", "none"), "header names");
                equal(record.headers().lastHeader("number").value(), bytes("" + number), "header");
                equal(record.headers().lastHeader("none").value(), null, "null header");
                number++;
            }
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private void acknowledgement(String acks) throws Exception {
        String topic = createTopic(1);
        send(topic, 100, Map.of("acks", acks));
        equal(readAll(topic, 100), range(0, 100), "values");
    }

    private void idempotent() throws Exception {
        String topic = createTopic(1);
        send(topic, 100, Map.of(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true));
        equal(readAll(topic, 100), range(0, 100), "values");
    }

    private void tooLarge() throws Exception {
        String topic = unique("java");
        NewTopic small = new NewTopic(topic, 1, (short) 1).configs(Map.of("max.message.bytes", "100000"));
        admin.createTopics(List.of(small)).all().get();
        try (KafkaProducer<String, String> producer =
                producer(Map.of("max.request.size", 10_000_000, "buffer.memory", 20_000_000L))) {
            fails(RecordTooLargeException.class, producer.send(new ProducerRecord<>(topic, "x".repeat(3_000_000))));
        }
    }

    private void group(Class<?> assignor) throws Exception {
        String topic = createTopic(4);
        Map<String, Object> settings = Map.of(
                ConsumerConfig.GROUP_ID_CONFIG,
                unique("group"),
                ConsumerConfig.PARTITION_ASSIGNMENT_STRATEGY_CONFIG,
                assignor.getName());
        Set<Integer> values = new TreeSet<>();
        try (KafkaConsumer<String, String> first = consumer(settings)) {
            first.subscribe(List.of(topic));
            waitUntil(() -> poll(first, values) == 4, "the first member owns all partitions");
            try (KafkaConsumer<String, String> second = consumer(settings)) {
                second.subscribe(List.of(topic));
                waitUntil(() -> poll(first, values) + 10 * poll(second, values) == 22, "the members share");
                Set<TopicPartition> both = new java.util.HashSet<>(first.assignment());
                both.addAll(second.assignment());
                equal(both.size(), 4, "assigned partitions");
                send(topic, 200, Map.of());
                waitUntil(
                        () -> {
                            poll(first, values);
                            poll(second, values);
                            return values.size() == 200;
                        },
                        "all records");
            }
            waitUntil(() -> poll(first, values) == 4, "the first member takes over");
        }
    }

    /** Polls once and returns how many partitions the member owns. */
    private static int poll(KafkaConsumer<String, String> consumer, Set<Integer> values) {
        consumer.poll(Duration.ofMillis(50)).forEach(record -> values.add(Integer.valueOf(record.value())));
        return consumer.assignment().size();
    }

    private void resume() throws Exception {
        String topic = createTopic(1);
        TopicPartition place = new TopicPartition(topic, 0);
        String group = unique("resume");
        Map<String, Object> settings =
                Map.of(ConsumerConfig.GROUP_ID_CONFIG, group, ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 20);
        send(topic, 50, Map.of());
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            consumer.subscribe(List.of(topic));
            equal(numbers(take(consumer, 20)), range(0, 20), "values");
            consumer.commitSync(Map.of(place, new OffsetAndMetadata(20, "twenty")));
        }
        var stored = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(place);
        equal(stored.offset() + stored.metadata(), "20twenty", "committed offset");
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            consumer.subscribe(List.of(topic));
            equal(numbers(take(consumer, 30)), range(20, 50), "values after the commit");
        }
    }

    private void staticMember() throws Exception {
        String topic = createTopic(2);
        Map<String, Object> settings = new HashMap<>();
        settings.put(ConsumerConfig.GROUP_ID_CONFIG, unique("static"));
        settings.put(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG, "instance-1");
        for (int time = 0; time < 2; time++) {
            try (KafkaConsumer<String, String> consumer = consumer(settings)) {
                consumer.subscribe(List.of(topic));
                waitUntil(() -> poll(consumer, new TreeSet<>()) == 2, "the member owns all partitions");
                equal(consumer.groupMetadata().groupInstanceId().orElse(""), "instance-1", "instance");
            }
        }
    }

    private void pattern() throws Exception {
        String prefix = unique("pattern");
        for (String suffix : List.of("a", "b")) {
            admin.createTopics(List.of(new NewTopic(prefix + suffix, 1, (short) 1))).all().get();
        }
        try (KafkaConsumer<String, String> consumer =
                consumer(Map.of(ConsumerConfig.GROUP_ID_CONFIG, unique("pattern")))) {
            consumer.subscribe(java.util.regex.Pattern.compile(prefix + ".*"));
            waitUntil(() -> poll(consumer, new TreeSet<>()) == 2, "both topics are assigned");
            Set<String> names =
                    consumer.assignment().stream().map(TopicPartition::topic).collect(Collectors.toSet());
            equal(names, Set.of(prefix + "a", prefix + "b"), "topics");
        }
    }

    private ListOffsetsResultInfo offset(TopicPartition place, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(place, spec)).partitionResult(place).get();
    }

    private void offsets() throws Exception {
        String topic = createTopic(1);
        TopicPartition place = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            for (int number = 0; number < 20; number++) {
                producer.send(new ProducerRecord<>(topic, 0, START + 100L * number, "k", "" + number));
            }
        }
        equal(offset(place, OffsetSpec.earliest()).offset(), 0L, "earliest");
        equal(offset(place, OffsetSpec.latest()).offset(), 20L, "latest");
        equal(offset(place, OffsetSpec.forTimestamp(START + 1050)).offset(), 11L, "for time");
        equal(offset(place, OffsetSpec.forTimestamp(START + 1050)).timestamp(), START + 1100, "time found");
        equal(offset(place, OffsetSpec.forTimestamp(START + 99999)).offset(), -1L, "after the last");
        equal(offset(place, OffsetSpec.maxTimestamp()).offset(), 19L, "largest time");
        try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
            OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(place, START + 1050)).get(place);
            equal(found.offset(), 11L, "consumer's offset for time");
            equal(consumer.offsetsForTimes(Map.of(place, START + 99999)).get(place), null, "after the last");
            equal(consumer.endOffsets(List.of(place)).get(place), 20L, "end");
            equal(consumer.beginningOffsets(List.of(place)).get(place), 0L, "beginning");
        }
    }

    private void seek() throws Exception {
        String topic = createTopic(1);
        TopicPartition place = new TopicPartition(topic, 0);
        send(topic, 50, Map.of("linger.ms", 100));
        try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
            consumer.assign(List.of(place));
            consumer.seek(place, 42);
            equal(numbers(take(consumer, 8)), range(42, 50), "values after a seek into a batch");
            equal(consumer.position(place), 50L, "position");
            equal(consumer.currentLag(place).orElse(-1), 0L, "lag");
            consumer.seekToBeginning(List.of(place));
            equal(consumer.position(place), 0L, "position at the beginning");
        }
    }

    private void unknown() throws Exception {
        String missing = unique("missing");
        fails(UnknownTopicOrPartitionException.class, admin.describeTopics(List.of(missing)).allTopicNames());
        try (KafkaConsumer<String, String> consumer = consumer(Map.of("allow.auto.create.topics", false))) {
            try {
                consumer.endOffsets(List.of(new TopicPartition(missing, 0)), Duration.ofSeconds(3));
                throw new AssertionError("an unknown topic has an end");
            } catch (KafkaException expected) {
                // The consumer retries until its time is up.
            }
        }
        require(!admin.listTopics().names().get().contains(missing), "a consumer created the topic");
        send(missing, 1, Map.of());
        require(admin.listTopics().names().get().contains(missing), "producing did not create the topic");
    }
}
