# syntax=docker/dockerfile:1
# 依赖照锁（带哈希，只用轮子）装进一个虚拟环境；运行的一层里没有 pip 缓存、源码与编译器。
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements/runtime.txt requirements/
RUN python -m venv /opt/meeting-push \
    && /opt/meeting-push/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/meeting-push/bin/pip install --no-cache-dir --no-build-isolation --no-deps --no-index .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /data meeting-push \
    && install -d -o 10001 -g 10001 -m 700 /data
COPY --from=build /opt/meeting-push /opt/meeting-push
ENV PATH=/opt/meeting-push/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MEETING_PUSH_HOST=0.0.0.0 \
    MEETING_PUSH_DATA_DIR=/data \
    MEETING_PUSH_LOG_JSON=true
# 只写 /data 与 /tmp：可以 --read-only --tmpfs /tmp
USER 10001
VOLUME /data
WORKDIR /data
EXPOSE 8000
# 死了才重启：没有就绪（Redis 不在、正在离开）是负载均衡的事，问 /readyz
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["meeting-push"]
CMD ["serve"]
