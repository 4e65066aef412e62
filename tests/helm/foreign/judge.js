// Reads a list of objects, and writes for each what its schema says against it: null if nothing.
import { text } from "node:stream/consumers";
import { Certificate } from "@kubernetes-models/cert-manager/cert-manager.io/v1/Certificate";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const KINDS = { Certificate, PodMonitor, PrometheusRule, ServiceMonitor };

const objects = JSON.parse(await text(process.stdin));
const told = objects.map(({ kind, ...rest }) => {
  try {
    new KINDS[kind](rest).validate();
    return null;
  } catch (error) {
    return error.message;
  }
});
process.stdout.write(JSON.stringify(told));
