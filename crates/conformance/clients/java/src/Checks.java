package posthaste.conformance;

import java.util.Arrays;
import java.util.Objects;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** Named checks, one line each: {@code ok NAME} or {@code not ok NAME: reason}. */
final class Checks {
    private static final long SECONDS_MAX = 90;

    private boolean failed;
    private int ran;

    /** A check; whatever it throws is its failure. */
    interface Body {
        void run() throws Exception;
    }

    void check(String name, Body body) {
        ran++;
        ExecutorService thread = Executors.newSingleThreadExecutor(task -> {
            Thread worker = new Thread(task, name);
            worker.setDaemon(true);
            return worker;
        });
        Future<?> result = thread.submit((Callable<Void>) () -> {
            body.run();
            return null;
        });
        try {
            result.get(SECONDS_MAX, TimeUnit.SECONDS);
            System.out.println("ok " + name);
        } catch (Exception error) {
            failed = true;
            Throwable cause = error.getCause() == null ? error : error.getCause();
            System.out.println("not ok " + name + ": " + cause.toString().replaceAll("\\s+", " "));
            cause.printStackTrace();
        } finally {
            thread.shutdownNow();
        }
    }

    void finish() {
        System.out.flush();
        // Client threads must not hold the result back.
        Runtime.getRuntime().halt(failed || ran == 0 ? 1 : 0);
    }

    static String unique(String prefix) {
        return prefix + "-" + UUID.randomUUID().toString().substring(0, 10);
    }

    static void equal(Object actual, Object expected, String what) {
        boolean same = actual instanceof byte[] left && expected instanceof byte[] right
                ? Arrays.equals(left, right)
                : Objects.equals(actual, expected);
        require(same, what + ": expected " + expected + ", was " + actual);
    }

    static void require(boolean condition, String reason) {
        if (!condition) {
            throw new AssertionError(reason);
        }
    }

    static void waitUntil(Callable<Boolean> condition, String what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
        while (!condition.call()) {
            require(System.nanoTime() < deadline, what + ": not reached in 40 s");
            Thread.sleep(20);
        }
    }
}
