// 发的一方：同样的代码给两边。发什么由文件说：一块一块的“长度 换行 字节”，块里的二十个 @ 换成
// 预定发送时刻（单调时钟，纳秒）：晚发的那一点也算进延迟。
//
//   duel_sender publish PORT BLOCKS RATE SECONDS
//     开环：每秒 RATE 次，随机的一块原样写给 Redis（它是打包好的 PUBLISH）
//   duel_sender post PORT BLOCKS BATCH CONNECTIONS RATE SECONDS
//     第 0–2 块是请求头、正文的头、正文的尾，其余是消息；一个请求随机的 BATCH 条，逗号隔开
//     RATE 是每秒几条（开环）；0 是每条连接一个接一个（闭环）
//
// 结束时一行 JSON。
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STAMP = 20, BURST = 3000, CONNECTIONS_MAX = 256, ANSWER_MAX = 1 << 18, FIXED = 3 };
static const uint64_t TICK_NS = 1000000, ANSWER_NS = 30000000000ull;

typedef struct { char *data; size_t size; } block;
static block *blocks;
static int block_count;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void give_up(const char *why) {
  fprintf(stderr, "%s: %s\n", why, strerror(errno));
  exit(1);
}

static void read_blocks(const char *path) {
  FILE *file = fopen(path, "rb");
  size_t size;
  if (!file) give_up(path);
  for (int cap = 0; fscanf(file, "%zu", &size) == 1; block_count++) {
    if (block_count == cap) blocks = realloc(blocks, (size_t)(cap = cap ? cap * 2 : 1024) * sizeof *blocks);
    char *data = malloc(size + 1);
    if (fgetc(file) != '\n' || fread(data, 1, size, file) != size) give_up("short block");
    data[size] = 0;
    blocks[block_count] = (block){data, size};
  }
  fclose(file);
}

static char *put(char *to, const block *b, uint64_t stamp) {
  memcpy(to, b->data, b->size);
  char *mark = memmem(to, b->size, "@@@@@@@@@@@@@@@@@@@@", STAMP), digits[STAMP + 1];
  if (mark) {
    snprintf(digits, sizeof digits, "%020lu", stamp);
    memcpy(mark, digits, STAMP);
  }
  return to + b->size;
}

static const block *any(void) { return &blocks[FIXED + random() % (block_count - FIXED)]; }

static int dial(int port) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, (void *)&to, sizeof to)) give_up("connect");
  return fd;
}

static void write_all(int fd, const char *data, size_t size) {
  while (size) {
    ssize_t part = write(fd, data, size);
    if (part < 0) give_up("write");
    data += part;
    size -= (size_t)part;
  }
}

static void nap(uint64_t ns) {
  struct timespec t = {.tv_sec = (time_t)(ns / 1000000000ull), .tv_nsec = (long)(ns % 1000000000ull)};
  nanosleep(&t, NULL);
}

// ── publish ──────────────────────────────────────────────────────────────────

static long drain(int fd) {
  static char answers[1 << 16];
  long lines = 0;
  ssize_t size;
  while ((size = recv(fd, answers, sizeof answers, MSG_DONTWAIT)) > 0)
    for (ssize_t i = 0; i < size; i++) lines += answers[i] == '\n';
  return lines;
}

static int publish(char **argv) {
  int fd = dial(atoi(argv[2]));
  double rate = atof(argv[4]), seconds = atof(argv[5]);
  long total = (long)(rate * seconds), sent = 0, answered = 0;
  size_t longest = 0;
  for (int i = 0; i < block_count; i++)
    if (blocks[i].size > longest) longest = blocks[i].size;
  char *out = malloc(longest * BURST);
  uint64_t start = now_ns(), late = 0;
  double gap = 1e9 / rate;
  while (sent < total) {
    uint64_t now = now_ns();
    long due = (long)((double)(now - start) / gap) + 1;
    if (due > total) due = total;
    if (due > sent + BURST) due = sent + BURST;
    char *end = out;
    if (due > sent && now - start > (uint64_t)((double)sent * gap) + late)
      late = now - start - (uint64_t)((double)sent * gap);
    for (; sent < due; sent++)
      end = put(end, &blocks[random() % block_count], start + (uint64_t)((double)sent * gap));
    write_all(fd, out, (size_t)(end - out));
    answered += drain(fd);
    nap(TICK_NS);
  }
  while (answered < total) {
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    if (poll(&waiting, 1, 10000) <= 0) give_up("Redis does not answer");
    answered += drain(fd);
  }
  printf("{\"sent\":%ld,\"late_ms\":%.3f,\"seconds\":%.6f}\n", sent, (double)late / 1e6,
         (double)(now_ns() - start) / 1e9);
  return 0;
}

// ── post ─────────────────────────────────────────────────────────────────────

typedef struct { int fd, busy; uint64_t asked; char *answer; size_t size; } line;
static line lines[CONNECTIONS_MAX];
static long batch, accepted, refused;
static float *latencies;
static size_t latency_count, latency_cap;

static void ask(line *l, uint64_t stamp) {
  static char *body, *request;
  static size_t cap;
  if (!cap) {
    for (int i = FIXED; i < block_count; i++)
      if (blocks[i].size > cap) cap = blocks[i].size;
    cap = (cap + 1) * (size_t)batch + blocks[0].size + blocks[1].size + blocks[2].size + 64;
    body = malloc(cap);
    request = malloc(cap);
  }
  char *end = put(body, &blocks[1], 0);
  for (long i = 0; i < batch; i++) {
    if (i) *end++ = ',';
    end = put(end, any(), stamp);
  }
  end = put(end, &blocks[2], 0);
  int head = sprintf(request, "%sContent-Length: %zu\r\n\r\n", blocks[0].data, (size_t)(end - body));
  memcpy(request + head, body, (size_t)(end - body));
  l->asked = stamp;
  l->busy = 1;
  l->size = 0;
  write_all(l->fd, request, (size_t)head + (size_t)(end - body));
}

static int complete(const line *l) {
  const char *end = strstr(l->answer, "\r\n\r\n"), *found;
  if (!end) return 0;
  size_t body = l->size - (size_t)(end + 4 - l->answer);
  if ((found = strcasestr(l->answer, "\r\ncontent-length:")) && found < end)
    return body >= strtoul(found + 17, NULL, 10);
  return body >= 5 && !memcmp(l->answer + l->size - 5, "0\r\n\r\n", 5);  // 分块的
}

static void hear(line *l) {
  ssize_t part = read(l->fd, l->answer + l->size, ANSWER_MAX - 1 - l->size);
  if (part <= 0) give_up("the server closed a connection");
  l->size += (size_t)part;
  l->answer[l->size] = 0;
  if (!complete(l)) return;
  int status = atoi(l->answer + 9);
  if ((status == 200 || status == 202) && !strstr(l->answer, "\"error\":{")) {
    accepted += batch;
  } else if (refused++ < 3) {
    fprintf(stderr, "refused: %.300s\n", l->answer);
  }
  if (latency_count == latency_cap) {
    latency_cap = latency_cap ? latency_cap * 2 : 1 << 16;
    latencies = realloc(latencies, latency_cap * sizeof *latencies);
  }
  latencies[latency_count++] = (float)((double)(now_ns() - l->asked) / 1e6);
  l->busy = 0;
}

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static int post(char **argv) {
  int count = atoi(argv[5]), busy = 0;
  double rate = atof(argv[6]), seconds = atof(argv[7]);
  struct pollfd waiting[CONNECTIONS_MAX];
  batch = atol(argv[4]);
  for (int i = 0; i < count; i++) {
    lines[i] = (line){.fd = dial(atoi(argv[2])), .answer = malloc(ANSWER_MAX)};
    waiting[i] = (struct pollfd){.fd = lines[i].fd, .events = POLLIN};
  }
  uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), now;
  double gap = rate > 0 ? 1e9 * (double)batch / rate : 0;
  uint64_t asked = 0;
  while ((now = now_ns()) < end || busy) {
    if (now > end + ANSWER_NS) give_up("no answer");
    uint64_t due = start;
    for (int i = 0; i < count && now < end; i++) {
      if (lines[i].busy) continue;
      due = rate > 0 ? start + (uint64_t)((double)asked * gap) : now;
      if (due > now) break;
      ask(&lines[i], due);
      asked++;
      busy++;
    }
    struct timespec wait = {.tv_nsec = 100000000};
    if (due > now && due - now < 100000000) wait.tv_nsec = (long)(due - now);
    if (now >= end) wait.tv_nsec = 1000000;
    if (ppoll(waiting, (nfds_t)count, &wait, NULL) < 0) give_up("ppoll");
    for (int i = 0; i < count; i++) {
      if (!(waiting[i].revents & (POLLIN | POLLHUP | POLLERR))) continue;
      if (!lines[i].busy) {  // 闲着的，服务器过了 keep-alive 关掉的：重新连
        close(lines[i].fd);
        waiting[i].fd = lines[i].fd = dial(atoi(argv[2]));
        continue;
      }
      hear(&lines[i]);
      if (!lines[i].busy) busy--;
    }
  }
  qsort(latencies, latency_count, sizeof *latencies, by_value);
  printf("{\"accepted\":%ld,\"refused\":%ld,\"seconds\":%.6f,\"p50_ms\":%.3f,\"p95_ms\":%.3f}\n",
         accepted, refused, (double)(now_ns() - start) / 1e9,
         latency_count ? latencies[latency_count / 2] : 0,
         latency_count ? latencies[(size_t)((double)latency_count * .95)] : 0);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 6 && argc != 8) return 2;
  read_blocks(argv[3]);
  return argc == 6 ? publish(argv) : post(argv);
}
