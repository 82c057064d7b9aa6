package posthaste.conformance;

import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultSaslConfig;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.errors.SaslAuthenticationException;
import org.apache.kafka.common.errors.TopicAuthorizationException;

/** kafka-clients and amqp-client log in by every mechanism of their protocols, over TLS. */
final class LogInChecks {
    private static final Path FOLDER = Path.of(System.getenv("CONFORMANCE_CREDENTIALS"));
    private static final String MODULES = "org.apache.kafka.common.security.";

    private LogInChecks() {}

    static void run(Checks checks, Map<String, String> addresses) throws Exception {
        kafka(checks, addresses.get("kafka"));
        amqp(checks, addresses.get("amqp"));
    }

    private static String text(String name) throws IOException {
        return Files.readString(FOLDER.resolve(name));
    }

    private static void kafka(Checks checks, String address) throws Exception {
        for (String mechanism : List.of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")) {
            checks.check("kafka-clients: " + mechanism,
                    () -> isLetIn(withPassword(address, mechanism, "ann-password"), "ann"));
        }
        checks.check("kafka-clients: a wrong password is refused", () -> {
            isKeptOut(withPassword(address, "PLAIN", "wrong"));
            isKeptOut(withPassword(address, "SCRAM-SHA-256", "wrong"));
        });
        String allowed = FOLDER.resolve("token").toUri() + "," + FOLDER.resolve("wrong.token").toUri();
        System.setProperty("org.apache.kafka.sasl.oauthbearer.allowed.urls", allowed);
        System.setProperty("org.apache.kafka.sasl.oauthbearer.allowed.files",
                FOLDER.resolve("token") + "," + FOLDER.resolve("wrong.token"));
        checks.check("kafka-clients: OAUTHBEARER", () -> isLetIn(withToken(address, "token"), "tom"));
        checks.check("kafka-clients: OAUTHBEARER with another issuer's token is refused",
                () -> isKeptOut(withToken(address, "wrong.token")));
        checks.check("kafka-clients: a client certificate", () -> {
            Properties settings = settings(address, "SSL");
            settings.put("ssl.keystore.type", "PEM");
            settings.put("ssl.keystore.location", FOLDER.resolve("mia.both.pem").toString());
            isLetIn(settings, "mia");
        });
    }

    private static Properties settings(String address, String protocol) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", address);
        settings.put("security.protocol", protocol);
        settings.put("ssl.truststore.type", "PEM");
        settings.put("ssl.truststore.location", FOLDER.resolve("authority.pem").toString());
        settings.put("default.api.timeout.ms", "30000");
        return settings;
    }

    private static Properties withPassword(String address, String mechanism, String password) {
        Properties settings = settings(address, "SASL_SSL");
        String module = mechanism.equals("PLAIN") ? "plain.PlainLoginModule" : "scram.ScramLoginModule";
        settings.put("sasl.mechanism", mechanism);
        settings.put("sasl.jaas.config",
                MODULES + module + " required username=\"ann\" password=\"" + password + "\";");
        return settings;
    }

    /** The client reads its token from a file, as that of a Kubernetes service account. */
    private static Properties withToken(String address, String name) {
        Properties settings = settings(address, "SASL_SSL");
        settings.put("sasl.mechanism", "OAUTHBEARER");
        settings.put("sasl.jaas.config", MODULES + "oauthbearer.OAuthBearerLoginModule required;");
        settings.put("sasl.login.callback.handler.class", MODULES + "oauthbearer.OAuthBearerLoginCallbackHandler");
        settings.put("sasl.oauthbearer.token.endpoint.url", FOLDER.resolve(name).toUri().toString());
        return settings;
    }

    private static void isLetIn(Properties settings, String user) throws Exception {
        try (Admin admin = Admin.create(settings)) {
            create(admin, Checks.unique(user + "-topic"));
            try {
                create(admin, Checks.unique("other"));
                throw new AssertionError("it may create every topic");
            } catch (ExecutionException error) {
                Checks.equal(error.getCause().getClass(), TopicAuthorizationException.class, "the error");
            }
        }
    }

    private static void isKeptOut(Properties settings) throws Exception {
        try (Admin admin = Admin.create(settings)) {
            create(admin, Checks.unique("ann-topic"));
            throw new AssertionError("it was let in");
        } catch (ExecutionException error) {
            Checks.equal(error.getCause() instanceof SaslAuthenticationException, true, error.toString());
        }
    }

    private static void create(Admin admin, String topic) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get(30, TimeUnit.SECONDS);
    }

    private static void amqp(Checks checks, String address) throws Exception {
        checks.check("amqp-client: PLAIN", () -> declares(factory(address, null, "ann", "ann-password"), "ann"));
        checks.check("amqp-client: PLAIN with a token",
                () -> declares(factory(address, null, "tom", text("token")), "tom"));
        checks.check("amqp-client: EXTERNAL", () -> declares(external(address, "mia"), "mia"));
        checks.check("amqp-client: wrong credentials are refused", () -> {
            isRefused(factory(address, null, "ann", "wrong"));
            isRefused(factory(address, null, "tom", text("wrong.token")));
            isRefused(external(address, "stranger"));
        });
    }

    private static ConnectionFactory external(String address, String certificate) throws Exception {
        ConnectionFactory factory = factory(address, certificate, "", "");
        factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
        return factory;
    }

    private static ConnectionFactory factory(String address, String certificate, String user, String password)
            throws Exception {
        int colon = address.lastIndexOf(':');
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost(address.substring(0, colon));
        factory.setPort(Integer.parseInt(address.substring(colon + 1)));
        factory.setUsername(user);
        factory.setPassword(password);
        factory.setAutomaticRecoveryEnabled(false);
        factory.useSslProtocol(context(certificate));
        return factory;
    }

    private static void declares(ConnectionFactory factory, String user) throws Exception {
        try (Connection connection = factory.newConnection()) {
            connection.createChannel().queueDeclare(Checks.unique(user + "-queue"), false, false, true, null);
            Channel channel = connection.createChannel();
            try {
                channel.queueDeclare(Checks.unique("other"), false, false, true, null);
                throw new AssertionError("it may create every queue");
            } catch (IOException error) {
                Checks.equal(error.getCause().toString().contains("403"), true, error.getCause().toString());
            }
        }
    }

    private static void isRefused(ConnectionFactory factory) throws Exception {
        try (Connection connection = factory.newConnection()) {
            throw new AssertionError("it was let in: " + connection);
        } catch (AuthenticationFailureException expected) {
            // That is how it should end.
        }
    }

    private static SSLContext context(String name) throws Exception {
        KeyStore authorities = KeyStore.getInstance("PKCS12");
        authorities.load(null, null);
        authorities.setCertificateEntry("authority", certificate("authority.pem"));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(authorities);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        if (name != null) {
            Certificate[] chain = {certificate(name + ".pem")};
            own.setKeyEntry("own", key(name + ".key"), new char[0], chain);
        }
        keys.init(own, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private static Certificate certificate(String name) throws Exception {
        byte[] pem = Files.readAllBytes(FOLDER.resolve(name));
        return CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(pem));
    }

    private static PrivateKey key(String name) throws Exception {
        String body = text(name).replaceAll("-----[A-Z ]+-----", "").replaceAll("\\s", "");
        byte[] der = Base64.getDecoder().decode(body);
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(der));
    }
}
