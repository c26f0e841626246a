// Java 17 的 java.net.http：参数是地址、令牌。说什么见 README.md。不用构建：java Client.java。

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Client implements WebSocket.Listener {
  // 标准库里没有 JSON：每条消息恰有一个 id；别的帧里它不跟在 new_message 后面。
  private static final Pattern ID =
      Pattern.compile("\"type\":\"new_message\".*?\"message_id\":\"([0-9A-Z]{26})\"");
  private final StringBuilder text = new StringBuilder();
  private final CountDownLatch closed = new CountDownLatch(1);

  public static void main(String[] args) throws Exception {
    Client client = new Client();
    WebSocket socket =
        HttpClient.newHttpClient()
            .newWebSocketBuilder()
            .subprotocols("meeting-push.v1", "bearer." + args[1])
            .buildAsync(URI.create(args[0]), client)
            .get();
    Thread ending =
        new Thread(
            () -> {
              try {
                while (System.in.read() >= 0) {}
              } catch (java.io.IOException ignored) {
                // 同结束一样
              }
              socket.sendClose(1000, "");
            });
    ending.setDaemon(true);
    ending.start();
    client.closed.await();
    System.exit(0);
  }

  @Override
  public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
    text.append(part);
    if (last) {
      String frame = text.toString();
      text.setLength(0);
      System.out.println(frame);
      acknowledge(socket, frame);
    }
    socket.request(1);
    return null;
  }

  private void acknowledge(WebSocket socket, String frame) {
    List<String> ids = new ArrayList<>();
    Matcher found = ID.matcher(frame);
    while (found.find()) ids.add('"' + found.group(1) + '"');
    if (!ids.isEmpty()) {
      String list = String.join(",", ids);
      socket.sendText("{\"type\":\"ack\",\"message_ids\":[" + list + "],\"request_id\":1}", true);
    }
  }

  @Override
  public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
    System.out.println("{\"type\":\"closed\",\"code\":" + code + "}");
    closed.countDown();
    return null;
  }

  @Override
  public void onError(WebSocket socket, Throwable error) {
    System.err.println(error);
    closed.countDown();
  }
}
