# The web page with the models that come with segcft:
#   docker build -t segcft .
#   docker run --rm -p 127.0.0.1:8000:8000 segcft          # then open http://127.0.0.1:8000
# Models of your own: docker run ... -v "$PWD/runs:/runs:ro" segcft /runs/mystudy
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/segcft

COPY constraints.txt ./
RUN pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt ".[app,dicom,hub,nifti]"

COPY models models
RUN useradd --create-home segcft
USER segcft

EXPOSE 8000
# The container's port is published by whoever runs it, to this machine alone as above.
ENTRYPOINT ["segcft", "app", "--host", "0.0.0.0", "--no-open"]
CMD ["models/chest", "models/chest-sim", "models/coronary-sim"]
