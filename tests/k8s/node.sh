#!/bin/bash
# What process 1 of a node of the Kubernetes lab does: builds the node's own view of the machine,
# then keeps containerd, kubelet and kube-proxy running.
#
#   node.sh NAME DIRECTORY PROGRAMS CGROUP..
#
# It is started in fresh mount, UTS, IPC and pid namespaces, in the node's network namespace.
# DIRECTORY holds the node's files: etc (its settings), upper (all that the node writes to its
# root), containerd, kubelet, log. CGROUP is the node's own in each tree. When this process ends,
# the node ends.
set -eu
name=$1 dir=$2 programs=$3
root=$dir/root

# First the cgroups: a cgroup namespace begins where the process is that makes it.
if [ $# -gt 3 ]; then
  for cgroup in "${@:4}"; do
    echo $$ >"$cgroup/cgroup.procs"
  done
  exec unshare --cgroup bash "$0" "$name" "$dir" "$programs"
fi

hostname "$name"

# The root: the machine's, read only, with the node's own writes above it.
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$root"
mkdir -p "$root"/{run,tmp,opt/cni/bin,opt/k8s/bin,etc/kubernetes,etc/cni/net.d} \
  "$root"/var/{log,lib/{kubelet,containerd,cni}}
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$programs" "$root/opt/k8s/bin"
mount -o remount,bind,ro "$root/opt/k8s/bin"
mount --bind "$dir/etc" "$root/etc/kubernetes"
# An overlay cannot lie on an overlay: containerd's layers stand on the machine's file system.
mount --bind "$dir/containerd" "$root/var/lib/containerd"
mount --bind "$dir/kubelet" "$root/var/lib/kubelet"
mount --bind "$dir/log" "$root/var/log"

# /sys as this network namespace has it, the cgroups as this cgroup namespace has them: the root
# of each tree is the node's own cgroup.
mount -t sysfs sysfs "$root/sys"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  # No process may stand beside the pods' cgroups.
  mkdir -p "$root/sys/fs/cgroup/host"
  echo $$ >"$root/sys/fs/cgroup/host/cgroup.procs"
else
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  mounts=$(cat /proc/self/mountinfo)
  while read -r _ _ _ _ at _ rest; do
    rest=${rest#*- }
    read -r kind _ options <<<"$rest"
    case $kind in
      cgroup2) tree=unified options= ;;
      cgroup) tree=$(basename "$at") options=${options#rw} options=${options#,} ;;
      *) continue ;;
    esac
    case $at in /sys/fs/cgroup/*) ;; *) continue ;; esac
    mkdir -p "$root/sys/fs/cgroup/$tree"
    mount -t "$kind" ${options:+-o "$options"} "$kind" "$root/sys/fs/cgroup/$tree"
  done <<<"$mounts"
  mount -o remount,ro "$root/sys/fs/cgroup"
fi
mount -t bpf bpf "$root/sys/fs/bpf"

mkdir -p "$root/run/old" "$root/run/lock" "$root/run/netns"
cd "$root"
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
# What a pod mounts may reach the node, and what the node mounts its pods.
mount --make-rshared /

cp -P /usr/lib/cni/* /opt/cni/bin/
cp /etc/kubernetes/cni.conflist /etc/cni/net.d/10-lab.conflist
cp /etc/kubernetes/resolv.conf /etc/resolv.conf
printf '127.0.0.1 localhost\n' >/etc/hosts
export PATH=/opt/k8s/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root

# keep PROGRAM ARGUMENTS..: as a service manager would; its words go to the log of its name.
keep() {
  while :; do
    "$@" >>"/var/log/$1.log" 2>&1 </dev/null || true
    echo "$1 ended; once more" >>"/var/log/$1.log"
    sleep 1
  done
}

keep containerd --config /etc/kubernetes/containerd.toml &
keep kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
  --hostname-override="$name" --node-ip="$(cat /etc/kubernetes/address)" \
  --node-labels="$(cat /etc/kubernetes/labels)" &
keep kube-proxy --config=/etc/kubernetes/proxy.yaml --hostname-override="$name" &
# Bash reaps what is left to process 1.
while :; do wait || true; done
