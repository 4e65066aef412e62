# The image of suki-relay: one binary on a base without a shell. At the root of a checkout:
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t registry.example.com/suki-relay:0.1.0 .
#   docker push registry.example.com/suki-relay:0.1.0      # or: kind load docker-image …, minikube image load …
#   helm install relay ./helm --set image.repository=registry.example.com/suki-relay --set image.tag=0.1.0
#
# The same commit on the same base images gives the same binary: versions are those of Cargo.lock, and it is always built
# in the same folder, so no other path is in it. tests/image tries what the commands below make.

FROM rust:1.95-bookworm AS build
RUN cargo install --quiet --locked cargo-auditable --version 0.7.7
WORKDIR /build
COPY . .
ARG REVISION=unknown
ARG SOURCE_DATE_EPOCH=0
ENV SUKI_RELAY_REVISION=$REVISION SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH
# The binary carries the list of its crates: `cargo audit bin`, trivy, grype and others read it.
RUN cargo auditable build --release --locked --bin suki-relay

# glibc, libgcc, roots of trust; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG REVISION=unknown
LABEL org.opencontainers.image.title="suki-relay" \
      org.opencontainers.image.description="Durable relay for Suki webhook notifications" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /build/target/release/suki-relay /usr/local/bin/suki-relay
USER 65532:65532
# Notifications; probes and metrics. The operator API stays on loopback.
EXPOSE 8443 9740
ENTRYPOINT ["/usr/local/bin/suki-relay"]
CMD ["run", "--config", "/etc/suki-relay/config/config.yaml"]
