from __future__ import annotations
import os, subprocess, time, json, shutil, signal, threading
from pathlib import Path
import pytest
from tests.cli.test_archive import *
from tests.support.store import everything_below, put, put_tree, put_url, sha256
BIG = os.urandom(20_000_000)

@pytest.fixture
def big(settings, hive, tmp_path):
    files={"model.safetensors": BIG, "config.json": b"{}", "README.md": CARD}
    put(settings, "org/name", files); put_tree(settings, "org/name", files)
    r=hive("export","org/name","-o",str(tmp_path/"x.tar"),"-q"); assert r.code==0, r.err
    return tmp_path/"x.tar"

def oenv(env,tmp_path, name="other"):
    return env|{"HIVE_STORE": str(tmp_path/name), "HF_HUB_OFFLINE":"1","HIVE_HOST":"127.0.0.1:1"}
def run(env,*a,stdin=None):
    d=subprocess.run([*ALONE,*a],env=env,input=stdin,capture_output=True,timeout=60)
    return d.returncode,d.stdout.decode(),d.stderr.decode()
def half(env, data, n, *a):
    p=subprocess.Popen([*ALONE,"import","-",*a],env=env,stdin=subprocess.PIPE,stdout=subprocess.PIPE,stderr=subprocess.PIPE)
    p.stdin.write(data[:n]); p.stdin.flush()
    assert p.stderr.readline()
    return p
def show(e, title):
    print("==", title)
    for a in (["ls"],["ps"],["gc"],["du"]):
        print(a, run(e,*a))
def tree(p): return sorted(str(x) for x in everything_below(p) if "locks" not in str(x))

def test_kill9(big, env, tmp_path):
    e=oenv(env,tmp_path); data=big.read_bytes()
    p=half(e,data,10_000_000); p.kill(); p.wait()
    print(tree(Path(e["HIVE_STORE"])))
    show(e,"after kill"); print(run(e,"show","org/name"))
    print("again",run(e,"import",str(big)))
    print(tree(Path(e["HIVE_STORE"]))); show(e,"after again")
    print(run(e,"rm","-y","org/name"),run(e,"rm","org/name")); print(tree(Path(e["HIVE_STORE"])))

def test_kill9_then_gc(big, env, tmp_path):
    e=oenv(env,tmp_path); data=big.read_bytes()
    p=half(e,data,10_000_000)
    print("gc during", run(e,"gc","--help")[1][:1500])
    print("gc during", run(e,"gc","-y"), run(e,"gc","--yes","--older-than","0s"))
    p.kill(); p.wait()
    print("gc after", run(e,"gc","-y"), run(e,"gc"))
    print(tree(Path(e["HIVE_STORE"])))
    for x in Path(e["HIVE_STORE"]).rglob("*"):
        if x.is_file(): os.utime(x,(0,0))
    print("gc after old", run(e,"gc","-y"))
    print(tree(Path(e["HIVE_STORE"])))
    print("pull", run(e,"pull","-q","org/name"))

def test_two(big, env, tmp_path):
    e=oenv(env,tmp_path); data=big.read_bytes()
    p=half(e,data,10_000_000)
    print("second", run(e,"import",str(big)))
    print("ps", run(e,"ps"))
    print("rm", run(e,"rm","-y","org/name"))
    print("cancel", run(e,"cancel","--all"))
    p.stdin.write(data[10_000_000:]); 
    print(p.communicate(), p.returncode)
    print(tree(Path(e["HIVE_STORE"])))
    show(e,"after")

def test_rm_and_gc_in_the_middle(big, env, tmp_path):
    e=oenv(env,tmp_path); data=big.read_bytes()
    # all but the end: blobs are there
    p=half(e,data,len(data)-10240)
    time.sleep(1)
    print(tree(Path(e["HIVE_STORE"])))
    print("gc", run(e,"gc","-y"))
    print(tree(Path(e["HIVE_STORE"])))
    shutil.rmtree(Path(e["HIVE_STORE"])/"hub"/"models--org--name"/"blobs")
    p.stdin.write(data[len(data)-10240:])
    print(p.communicate(), p.returncode); show(e,"after")
    print(tree(Path(e["HIVE_STORE"])))

def test_symlinked(big, env, tmp_path):
    e=oenv(env,tmp_path,"link"); (tmp_path/"real").mkdir(); (tmp_path/"link").symlink_to(tmp_path/"real")
    print(run(e,"import",str(big)))
    e=oenv(env,tmp_path,"o2"); s=tmp_path/"o2"; (s/"hub").mkdir(parents=True); (tmp_path/"evil").mkdir(); (s/"hub"/"models--org--name").symlink_to(tmp_path/"evil")
    print("planted link", run(e,"import",str(big))); print(list((tmp_path/"evil").rglob("*")))
    show(e,"after planted")

def test_export_while_deleted(big, settings, env, tmp_path):
    e=env|{"HIVE_HOST":"127.0.0.1:1"}
    os.mkfifo(tmp_path/"fifo")
    p=subprocess.Popen([*ALONE,"export","org/name","-o",str(tmp_path/"fifo")],env=e,stdout=subprocess.PIPE,stderr=subprocess.PIPE)
    f=open(tmp_path/"fifo","rb"); f.read(5000)
    print("rm", run(e,"rm","-y","org/name"))
    f.read(); print(p.communicate(), p.returncode)

def test_full(big, env, tmp_path):
    from tests.support import tmpfs
    print([n for n in dir(tmpfs) if not n.startswith("_")])

def test_ronly(big, env, tmp_path):
    print("outdir missing", run(env|{"HIVE_HOST":"127.0.0.1:1"},"export","org/name","-o",str(tmp_path/"no"/"x.tar")))
    print("dir", run(env|{"HIVE_HOST":"127.0.0.1:1"},"export","org/name","-o",str(tmp_path)))
    print("full", run(env|{"HIVE_HOST":"127.0.0.1:1"},"export","org/name","-o","/dev/full"))
    print("newline", ascii(run(env|{"HIVE_HOST":"127.0.0.1:1"},"export","org/name","-o",str(tmp_path/"a\nb\x1b[31m.tar"))))
    print("imp dir", run(oenv(env,tmp_path),"import",str(tmp_path)))
    print("imp none", run(oenv(env,tmp_path),"import",str(tmp_path/"none")))
    print("imp zero", run(oenv(env,tmp_path),"import","/dev/zero"))
    print("imp null", run(oenv(env,tmp_path),"import","/dev/null"))
    print("imp urandom", run(oenv(env,tmp_path),"import","/dev/urandom"))
