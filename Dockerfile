# syntax=docker/dockerfile:1
# Builds the binary as it is shipped (profile `dist`) and puts it alone into a small image.

FROM rust:1.95.0-slim-bookworm AS build
# The image's own toolchain: `stable` in rust-toolchain.toml would download another.
ENV RUSTUP_TOOLCHAIN=1.95.0
# Further sinks of `onlyonce relay`: --build-arg FEATURES=nats,amqp,kafka,kafka-tls
ARG FEATURES=
# For Kafka's client, which is built from its C sources.
RUN case ",$FEATURES," in *,kafka*) apt-get update \
    && apt-get install --yes --no-install-recommends g++ make libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/* ;; esac
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --package onlyonce-proxy --features "$FEATURES" \
    && cp target/dist/onlyonce /usr/local/bin/onlyonce

FROM debian:bookworm-slim
# Root certificates, for upstreams and databases that speak TLS; they bring the OpenSSL that `kafka-tls` needs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --create-home --home-dir /var/lib/onlyonce onlyonce
COPY --from=build /usr/local/bin/onlyonce /usr/local/bin/onlyonce
USER onlyonce
# The embedded store, where it is used, is made here: mount a volume.
WORKDIR /var/lib/onlyonce
EXPOSE 8080 9090
# SIGTERM drains; give it longer than `listen.drain`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["onlyonce"]
CMD ["--help"]
