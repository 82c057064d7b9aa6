package posthaste.conformance;

import java.util.LinkedHashMap;
import java.util.Map;

/** Runs the checks of one client library: {@code Main kafka|amqp|log-ins PROTOCOL=HOST:PORT...}. */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        Map<String, String> addresses = new LinkedHashMap<>();
        for (int index = 1; index < arguments.length; index++) {
            String[] parts = arguments[index].split("=", 2);
            addresses.put(parts[0], parts[1]);
        }
        Checks checks = new Checks();
        String program = arguments.length == 0 ? "" : arguments[0];
        String address = addresses.get(program);
        switch (program) {
            case "kafka" -> KafkaChecks.run(checks, address);
            case "amqp" -> AmqpChecks.run(checks, address);
            case "log-ins" -> LogInChecks.run(checks, addresses);
            default -> throw new IllegalArgumentException("unknown program " + program);
        }
        checks.finish();
    }
}
