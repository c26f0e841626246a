// 收的一方：一个进程守着上万条 WebSocket，对两边用同样的代码。
//
//   duel_listener DIALECT(mp|cf) PORT TOKENS ACK(0|1) WINDOW
//
// TOKENS 的每一行是“用户 id 空格 令牌”；WINDOW 是同时在连的条数。连上全部之后、以及每个命令
// （标准输入的一行）之后，回答一行 JSON：
//   report  上次以来收到多少、延迟的分位数（毫秒），然后清零
//   storm   全部连接同时以 RST 断开，再全部连上
// 标准输入关了就结束。延迟：帧里每个 "title":"二十位的单调时钟纳秒" 到读到它为止。
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, DIALING, UPGRADING, GREETING, OPEN };
enum { PER_ADDRESS = 4000, HEAD_MAX = 2048, KEPT = 8192, HEARTBEATS_PER_ROUND = 300 };
static const uint64_t HEARTBEAT_NS = 100000000ull;  // 每十分之一秒三百分之一的人：每人 30 秒一次

typedef struct {
  char *uid, *token;
  int fd, state;
  char *head;  // 升级的回答，读完就还
  int head_len;
  unsigned char header[10];
  int header_len, header_need, opcode;
  uint64_t left;  // 这一帧还差几字节
  char *payload;
  uint32_t payload_len, payload_cap;
  uint64_t seq, acked;
} conn;

static int is_cf, acking, port, window, epoll_fd;
static conn *conns;
static int total, next_conn, up, failed, in_flight, told;
static uint64_t messages, frames, acks, closed, dial_started_ns;
static float *latencies;
static size_t latency_count, latency_cap;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void reserve(conn *c, uint32_t size) {
  if (size <= c->payload_cap) return;
  c->payload_cap = size + 256;
  c->payload = realloc(c->payload, c->payload_cap);
}

static void send_frame(conn *c, int opcode, const char *data, int size) {
  unsigned char out[4096];
  int at = 2;
  out[0] = (unsigned char)(0x80 | opcode);
  out[1] = (unsigned char)(0x80 | (size < 126 ? size : 126));
  if (size >= 126) {
    out[2] = (unsigned char)(size >> 8);
    out[3] = (unsigned char)(size & 255);
    at = 4;
  }
  memset(out + at, 0, 4);  // 掩码是零：省得逐字节异或
  memcpy(out + at + 4, data, (size_t)size);
  if (write(c->fd, out, (size_t)(at + 4 + size)) < 0) return;  // 断了的，读的时候会知道
}

static void lose(conn *c) {
  close(c->fd);
  c->fd = -1;
  if (c->state == OPEN) {
    closed++;
  } else {
    failed++;
    in_flight--;
  }
  c->state = IDLE;
}

static void dial(conn *c, int index) {
  struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  from.sin_addr.s_addr = htonl(0x7f000002u + (uint32_t)(index / PER_ADDRESS));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons((uint16_t)port);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  c->fd = fd;
  c->state = DIALING;
  c->header_len = c->head_len = 0;
  c->header_need = 2;
  c->left = c->payload_len = 0;
  in_flight++;
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
  if (bind(fd, (void *)&from, sizeof from) ||
      (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS) ||
      epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
    lose(c);
}

static void ask_upgrade(conn *c) {
  char request[HEAD_MAX + 1024];
  const char *mp = "GET /ws/user/%s/messages HTTP/1.1\r\nAuthorization: Bearer %s\r\n";
  int size = is_cf ? sprintf(request, "GET /connection/websocket HTTP/1.1\r\n")
                   : snprintf(request, HEAD_MAX, mp, c->uid, c->token);
  size += sprintf(request + size,
                  "Host: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                  port);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  if (write(c->fd, request, (size_t)size) != size ||
      epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event)) {
    lose(c);
    return;
  }
  c->state = UPGRADING;
  c->head = malloc(HEAD_MAX);
}

static void note_latency(uint64_t sent, uint64_t now) {
  if (latency_count == latency_cap) {
    latency_cap = latency_cap ? latency_cap * 2 : 1 << 20;
    latencies = realloc(latencies, latency_cap * sizeof *latencies);
  }
  latencies[latency_count++] = (float)((double)(int64_t)(now - sent) / 1e6);
}

static void read_messages(conn *c) {
  uint64_t now = 0;
  for (char *at = c->payload; (at = strstr(at, "\"title\":\""));) {
    if (!now) now = now_ns();
    messages++;
    note_latency(strtoull(at + 9, &at, 10), now);
  }
  if (!acking) return;
  for (char *at = c->payload; (at = strstr(at, "\"seq\":"));) {
    uint64_t seq = strtoull(at + 6, &at, 10);
    if (seq > c->seq) c->seq = seq;
  }
}

static void greeted(conn *c) {
  if (!strstr(c->payload, is_cf ? "\"connect\":" : "\"welcome\"")) {
    if (failed < 3) fprintf(stderr, "not welcomed: %.200s\n", c->payload);
    lose(c);
    return;
  }
  c->state = OPEN;
  up++;
  in_flight--;
}

static void frame_done(conn *c) {
  uint32_t size = c->payload_len;
  c->payload_len = 0;
  if (c->opcode == 9) {
    send_frame(c, 10, c->payload, (int)size);
  } else if (c->opcode == 1 || c->opcode == 2) {
    reserve(c, size + 1);
    c->payload[size] = 0;
    frames++;
    if (c->state == GREETING)
      greeted(c);
    else if (is_cf && size <= 3 && c->payload[0] == '{')
      send_frame(c, 1, "{}", 2);  // Centrifugo 的 ping
    else
      read_messages(c);
  }
  if (c->payload_cap > KEPT) {
    free(c->payload);
    c->payload = NULL;
    c->payload_cap = 0;
  }
}

static int need_of(int second) {
  int size = second & 127;
  return size == 126 ? 4 : size == 127 ? 10 : 2;
}

static uint64_t size_of(const unsigned char *header, int need) {
  if (need == 2) return header[1] & 127;
  uint64_t size = 0;
  for (int i = 2; i < need; i++) size = size << 8 | header[i];
  return size;
}

static void feed(conn *c, const char *data, ssize_t size) {
  while (size > 0 && c->fd >= 0) {
    if (c->left) {
      uint32_t part = c->left < (uint64_t)size ? (uint32_t)c->left : (uint32_t)size;
      reserve(c, c->payload_len + part + 1);
      memcpy(c->payload + c->payload_len, data, part);
      c->payload_len += part;
      c->left -= part;
      data += part;
      size -= part;
      if (!c->left) frame_done(c);
      continue;
    }
    c->header[c->header_len++] = (unsigned char)*data++;
    size--;
    if (c->header_len == 2) c->header_need = need_of(c->header[1]);
    if (c->header_len < c->header_need) continue;
    c->opcode = c->header[0] & 15;
    c->left = size_of(c->header, c->header_need);
    c->header_len = 0;
    c->header_need = 2;
    if (!c->left) frame_done(c);
  }
}

static void read_head(conn *c, const char *data, ssize_t size) {
  int before = c->head_len;
  int part = size < HEAD_MAX - 1 - before ? (int)size : HEAD_MAX - 1 - before;
  memcpy(c->head + before, data, (size_t)part);
  c->head_len += part;
  c->head[c->head_len] = 0;
  char *end = strstr(c->head, "\r\n\r\n");
  if (!end) return;
  int used = (int)(end + 4 - c->head) - before;
  int accepted = !strncmp(c->head, "HTTP/1.1 101", 12);
  if (!accepted && failed < 3) fprintf(stderr, "not upgraded: %.200s\n", c->head);
  free(c->head);
  c->head = NULL;
  if (!accepted) {
    lose(c);
    return;
  }
  c->state = GREETING;
  if (is_cf) {
    char hello[HEAD_MAX];
    int length = snprintf(hello, sizeof hello, "{\"id\":1,\"connect\":{\"token\":\"%s\"}}", c->token);
    send_frame(c, 1, hello, length);
  }
  feed(c, data + used, size - used);
}

static void readable(conn *c) {
  static char buffer[262144];
  ssize_t size = read(c->fd, buffer, sizeof buffer);
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) {
    lose(c);
  } else if (c->state == UPGRADING) {
    read_head(c, buffer, size);
  } else {
    feed(c, buffer, size);
    if (acking && c->fd >= 0 && c->seq > c->acked) {
      char ack[64];
      send_frame(c, 1, ack, sprintf(ack, "{\"type\":\"ack\",\"upto\":%lu}", c->seq));
      c->acked = c->seq;
      acks++;
    }
  }
}

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static double percentile(double share) {
  return latency_count ? latencies[(size_t)((double)latency_count * share)] : 0;
}

static void tell_figures(void) {
  qsort(latencies, latency_count, sizeof *latencies, by_value);
  printf("{\"messages\":%lu,\"frames\":%lu,\"acks\":%lu,\"closed\":%lu,"
         "\"p50_ms\":%.3f,\"p95_ms\":%.3f,\"p99_ms\":%.3f}\n",
         messages, frames, acks, closed, percentile(.5), percentile(.95), percentile(.99));
  messages = frames = acks = latency_count = 0;
}

static void start_dialing(void) {
  next_conn = up = failed = in_flight = told = 0;
  dial_started_ns = now_ns();
}

static void storm(void) {
  struct linger abrupt = {.l_onoff = 1, .l_linger = 0};
  for (int i = 0; i < total; i++) {
    if (conns[i].fd < 0) continue;
    setsockopt(conns[i].fd, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
    close(conns[i].fd);
    conns[i].fd = -1;
    conns[i].state = IDLE;
  }
  start_dialing();
}

static void obey(void) {
  char command[256];
  ssize_t size = read(0, command, sizeof command - 1);  // 一次一个命令：问的人等到回答才再问
  if (size <= 0) exit(0);
  command[size] = 0;
  if (!strncmp(command, "storm", 5))
    storm();
  else
    tell_figures();
}

static void keep_alive(void) {
  static uint64_t last;
  static int at;
  if (is_cf || !told || now_ns() - last < HEARTBEAT_NS) return;
  last = now_ns();
  for (int k = total / HEARTBEATS_PER_ROUND + 1; k; k--) {
    conn *c = &conns[at++ % total];
    if (c->state == OPEN) send_frame(c, 1, "{\"type\":\"heartbeat\",\"timestamp\":1}", 34);
  }
}

static void read_tokens(const char *path) {
  char line[HEAD_MAX], uid[32], token[HEAD_MAX];
  FILE *file = fopen(path, "r");
  if (!file) exit(1);
  for (int cap = 0; fgets(line, sizeof line, file);) {
    if (sscanf(line, "%31s %2047s", uid, token) != 2) continue;
    if (total == cap) conns = realloc(conns, (size_t)(cap = cap ? cap * 2 : 1024) * sizeof *conns);
    conns[total++] = (conn){.uid = strdup(uid), .token = strdup(token), .fd = -1};
  }
  fclose(file);
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  is_cf = !strcmp(argv[1], "cf");
  port = atoi(argv[2]);
  acking = atoi(argv[4]);
  window = atoi(argv[5]);
  setvbuf(stdout, NULL, _IOLBF, 0);
  read_tokens(argv[3]);
  epoll_fd = epoll_create1(0);
  struct epoll_event events[512], commands = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &commands);
  start_dialing();
  for (;;) {
    while (next_conn < total && in_flight < window) {
      dial(&conns[next_conn], next_conn);
      next_conn++;
    }
    int ready = epoll_wait(epoll_fd, events, 512, 50);
    for (int i = 0; i < ready; i++) {
      conn *c = events[i].data.ptr;
      if (!c)
        obey();
      else if (c->state == DIALING)
        ask_upgrade(c);
      else if (c->fd >= 0)
        readable(c);
    }
    if (!told && up + failed >= total) {
      told = 1;
      printf("{\"up\":%d,\"failed\":%d,\"seconds\":%.6f}\n", up, failed,
             (double)(now_ns() - dial_started_ns) / 1e9);
    }
    keep_alive();
  }
}
