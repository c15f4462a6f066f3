# temporary, until the API is there
import sys, types, io, json
import numpy as np, torch
from dataclasses import dataclass
from segcft.model import Model
from segcft.answer import Answer
from segcft.images.likelihood import to_unit
if not hasattr(Model, "question"):
    @dataclass
    class Q:
        pixels: np.ndarray; attributes: dict; do: dict
    def question(self, image, attributes=(), do=()):
        return Q(self._pixels(image), attributes, do)
    class A:
        pass
    def answer(self, questions, method=None, draws=0):
        out=[]
        for q in questions:
            px = q.pixels[0] if len(q.pixels)==1 else np.moveaxis(q.pixels,0,-1)
            do = q.do
            empty = not do
            if empty:
                name = self.study.areas[0]; do={name:"+0"}
            a = self.counterfactual(px, q.attributes, do, method)
            r = A()
            r.record=a.record; r.original=a.original; r.image=a.image
            if empty:
                r.record["do"]=[]
                for row in r.record["variables"].values(): row["intervened"]=False
            with torch.no_grad():
                m = self.judge.masks(to_unit(torch.from_numpy(np.stack([r.original, r.image]))))
            r.masks_before, r.masks_after = (m.numpy() > 0.5)
            r.draws = [np.clip(r.image + np.random.default_rng(i).normal(0,6,r.image.shape),0,255).astype(np.uint8) for i in range(draws)]
            r.uncertainty = np.std(np.stack(r.draws),axis=0).astype(np.float32) if draws else None
            out.append(r)
        return out
    Model.question=question; Model.answer=answer
try:
    import segcft.provenance
except ImportError:
    m=types.ModuleType("segcft.provenance")
    def png_bytes(p, record):
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo
        t=PngInfo(); t.add_text("Description","Synthetic image"); t.add_text("segcft", json.dumps(record))
        b=io.BytesIO(); Image.fromarray(p[0]).save(b,"PNG",pnginfo=t); return b.getvalue()
    m.png_bytes=png_bytes; m.dicom_bytes=lambda p,record: b"x"*132
    sys.modules["segcft.provenance"]=m
