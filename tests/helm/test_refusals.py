"""What contradicts itself is refused when it is rendered, with one sentence that says what to do."""

import helm_python
import pytest

import chart

SECRET = {"existingSecret": "s"}
SCHEMA = [
    ({"replicaCount": 2}, "additional properties 'replicaCount' not allowed"),
    ({"image": {"registry": "x"}}, "additional properties 'registry' not allowed"),
    ({"replicas": "two"}, "/replicas"),
    ({"mode": "daemonset"}, "'sidecar', 'standalone', 'templates'"),
    ({"persistence": {"size": "8 GB"}}, "/persistence/size"),
    ({"persistence": {"accessMode": "ReadWriteMany"}}, "'ReadWriteOncePod', 'ReadWriteOnce'"),
    ({"service": {"port": 0}}, "/service/port"),
    ({"signing": {"secret": "inline"}}, "additional properties 'secret' not allowed"),
    ({"env": {"TOKEN": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}}}, "/env/TOKEN"),
    ({"config": {"listne": {}}}, "additional properties 'listne' not allowed"),
    ({"config": {"listen": {"limits": {"body": 8}}}}, "/config/listen/limits/body"),
    ({"config": {"drain": {"deadline": "25"}}}, "/config/drain/deadline"),
    ({"config": {"targets": [{"name": "a", "http": {"url": "ftp://x"}}]}}, "/config/targets/0/http/url"),
    ({"config": {"routes": [{"name": "a", "to": []}]}}, "/config/routes/0/to"),
    ({"config": {"sources": [{"name": "a", "path": "/a", "secret": "inline"}]}}, "additional properties 'secret'"),
]
URL = {"targets": [{"name": "app", "http": {"url": "http://app/"}}]}
SENTENCES = [
    ({"tls": SECRET | {"certManager": {"enabled": True, "issuerRef": {"name": "i"}}}}, "keep one of them"),
    ({"tls": {"certManager": {"enabled": True}}}, "name an Issuer or ClusterIssuer"),
    ({"tls": SECRET, "config": {"listen": {"tls": {"self_signed": ["x"]}}}}, "brings the certificate already"),
    ({"tls": SECRET, "config": {"listen": {"tls": {"certificate": "/a", "private_key": "/b"}}}}, "take certificate"),
    ({"operator": SECRET, "config": {"admin": {"operator": {"token": {"file": "/a"}}}}}, "take one of them out"),
    ({"operator": SECRET | {"enabled": False}}, "or enable it"),
    ({"mode": "templates", "podDisruptionBudget": {"enabled": True}}, "leave it at auto and make the budget there"),
    ({"mode": "templates", "replicas": 2}, "set their number there"),
    ({"mode": "templates", "app": {"image": "x"}}, "take app.image out, or set mode: sidecar"),
    ({"mode": "standalone", "config": URL, "app": {"image": "x"}}, "take app.image out, or set mode: sidecar"),
    ({"mode": "standalone"}, "give it the URL of a Service, or set mode: sidecar"),
    ({"persistence": {"enabled": False}}, "persistence.ephemeralAcknowledged: true"),
    ({"mode": "templates", "persistence": {"enabled": False}}, "persistence.ephemeralAcknowledged: true"),
    ({"config": {"spool": {"disk": {"path": "/x"}, "postgres": {"url": {"file": "/x"}}}}}, "keep one of them"),
    ({"config": {"spool": {"postgres": {"url": {"env": "URL"}}}}}, "write file: and mount its Secret"),
    ({"config": {"sources": [{"name": "a", "path": "/a", "secrets": [{"name": "b", "env": "B"}]}]}}, "write file:"),
    ({"config": {"targets": [{"name": "a", "http": {"url": "http://a/", "headers": {"x": {"env": "B"}}}}]}}, "write file:"),
    ({"config": {"targets": [{"name": "a", "grpc": {"url": "http://a", "bearer_token": {"env": "B"}}}]}}, "write file:"),
    ({"config": {"targets": [{"name": "a", "http": {"url": "http://a/", "sign": {"secrets": [{"env": "B"}]}}}]}},
     "write file:"),
    ({"persistence": {"size": "4Gi"}}, "make the volume larger or the capacity smaller"),
    ({"config": {"spool": {"disk": {"capacity": "7GiB"}}}}, "make the volume larger or the capacity smaller"),
    ({"terminationGracePeriodSeconds": 30}, "need 60; take it out, or lower those"),
    ({"config": {"drain": {"deadline": "${D}"}}}, "write it out"),
    ({"config": {"spool": {"disk": {"capacity": "${C}"}}}}, "write it out"),
    ({"config": {"spool": {"disk": {"path": "/${P}"}}}}, "write it out"),
    ({"config": {"spool": {"disk": {"path": "spool"}}}}, "write it out"),
    ({"persistence": {"enabled": False, "ephemeralAcknowledged": True}, "config": {"spool": {"disk": {"path": "spool"}}}},
     "write it out"),
    ({"config": {"admin": {"address": "127.0.0.1:9740"}}}, "listen at 0.0.0.0"),
    ({"config": {"listen": {"address": "localhost:8443"}}}, "write it as 0.0.0.0:8443"),
    ({"config": {"listen": {"address": "0.0.0.0:443"}}}, "take a port from 1024 on"),
    ({"config": {"listen": {"address": "0.0.0.0:9740"}}}, "change one of them"),
    ({"files": [{"path": "/x"}]}, "either existingSecret or existingConfigMap"),
    ({"files": [{"path": "/x", "existingSecret": "a", "existingConfigMap": "b"}]}, "and not both"),
    ({"files": [{"path": "/etc/suki-relay/tls/", "existingSecret": "a"}]}, "choose another path"),
    ({"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "keep one of them"),
]


@pytest.mark.parametrize("values, words", SCHEMA, ids=lambda it: str(it)[:60])
def test_typos_and_wrong_types_are_refused_by_their_place(values, words):
    with pytest.raises(helm_python.HelmError) as refusal:
        chart.texts(values)
    assert words in str(refusal.value)


@pytest.mark.parametrize("values, words", SENTENCES, ids=lambda it: str(it)[:60])
def test_a_contradiction_is_refused_with_what_to_do(values, words):
    with pytest.raises(helm_python.HelmError) as refusal:
        chart.texts(values)
    said = str(refusal.value).split("error calling fail: ")[-1]
    assert words in said
    assert "\n" not in said.strip() and len(said) < 260, said


def test_what_lies_just_inside_is_rendered():
    for values in (
        {"config": {"spool": {"disk": {"capacity": "6GiB"}}}},
        {"terminationGracePeriodSeconds": 60},
        {"config": {"targets": [{"name": "app", "http": {"url": "http://a/", "headers": {"env": "prod"}}}]}},
        {"persistence": {"enabled": False, "ephemeralAcknowledged": True}},
        {"mode": "templates", "podDisruptionBudget": {"enabled": False}},
    ):
        assert chart.objects(values)
